"""Numbers that the paper prints, as it prints them: Tables 1 to 5. None is a dash."""

from typing import NamedTuple


class Row(NamedTuple):
    """model: the name and citation of the paper.  seconds: a batch of 100 images on a V100.  KL: nats."""

    model: str
    IS: float | None = None
    FID: float | None = None
    recall: float | None = None
    NFE: int | None = None
    seconds: float | None = None
    modes: int | None = None
    KL: float | None = None


# fmt: off
TABLE1 = [  # unconditional CIFAR-10: IS, FID, recall, NFE, seconds
    Row("Denoising Diffusion GAN (ours), T=4", 9.63, 3.75, 0.57, 4, 0.21),
    Row("DDPM (Ho et al., 2020)", 9.46, 3.21, 0.57, 1000, 80.5),
    Row("NCSN (Song & Ermon, 2019)", 8.87, 25.3, None, 1000, 107.9),
    Row("Adversarial SSM (Jolicoeur-Martineau et al., 2021b)", None, 6.10, None, 1000, None),
    Row("Likelihood SDE (Song et al., 2021b)", None, 2.87, None, None, None),
    Row("Score SDE (VE) (Song et al., 2021c)", 9.89, 2.20, 0.59, 2000, 423.2),
    Row("Score SDE (VP) (Song et al., 2021c)", 9.68, 2.41, 0.59, 2000, 421.5),
    Row("Probability Flow (VP) (Song et al., 2021c)", 9.83, 3.08, 0.57, 140, 50.9),
    Row("LSGM (Vahdat et al., 2021)", 9.87, 2.10, 0.61, 147, 44.5),
    Row("DDIM, T=50 (Song et al., 2021a)", 8.78, 4.67, 0.53, 50, 4.01),
    Row("FastDDPM, T=50 (Kong & Ping, 2021)", 8.98, 3.41, 0.56, 50, 4.01),
    Row("Recovery EBM (Gao et al., 2021)", 8.30, 9.58, None, 180, None),
    Row("Improved DDPM (Nichol & Dhariwal, 2021)", None, 2.90, None, 4000, None),
    Row("VDM (Kingma et al., 2021)", None, 4.00, None, 1000, None),
    Row("UDM (Kim et al., 2021)", 10.1, 2.33, None, 2000, None),
    Row("D3PMs (Austin et al., 2021)", 8.56, 7.34, None, 1000, None),
    Row("Gotta Go Fast (Jolicoeur-Martineau et al., 2021a)", None, 2.44, None, 180, None),
    Row("DDPM Distillation (Luhman & Luhman, 2021)", 8.36, 9.36, 0.51, 1, None),
    Row("SNGAN (Miyato et al., 2018)", 8.22, 21.7, 0.44, 1, None),
    Row("SNGAN+DGflow (Ansari et al., 2021)", 9.35, 9.62, 0.48, 25, 1.98),
    Row("AutoGAN (Gong et al., 2019)", 8.60, 12.4, 0.46, 1, None),
    Row("TransGAN (Jiang et al., 2021)", 9.02, 9.26, None, 1, None),
    Row("StyleGAN2 w/o ADA (Karras et al., 2020a)", 9.18, 8.32, 0.41, 1, 0.04),
    Row("StyleGAN2 w/ ADA (Karras et al., 2020a)", 9.83, 2.92, 0.49, 1, 0.04),
    Row("StyleGAN2 w/ Diffaug (Zhao et al., 2020)", 9.40, 5.79, 0.42, 1, 0.04),
    Row("Glow (Kingma & Dhariwal, 2018)", 3.92, 48.9, None, 1, None),
    Row("PixelCNN (Oord et al., 2016b)", 4.60, 65.9, None, 1024, None),
    Row("NVAE (Vahdat & Kautz, 2020)", 7.18, 23.5, 0.51, 1, 0.36),
    Row("IGEBM (Du & Mordatch, 2019)", 6.02, 40.6, None, 60, None),
    Row("VAEBM (Xiao et al., 2021)", 8.43, 12.2, 0.53, 16, 8.79),
]
TABLE2 = [  # ablations on CIFAR-10: IS, FID, recall
    Row("T = 1", 8.93, 14.6, 0.19),
    Row("T = 2", 9.80, 4.08, 0.54),
    Row("T = 4", 9.63, 3.75, 0.57),
    Row("T = 8", 9.43, 4.36, 0.56),
    Row("One-shot w/ aug", 8.96, 13.2, 0.25),
    Row("Direct denoising", 9.10, 6.03, 0.53),
    Row("Noise generation", 8.79, 8.04, 0.52),
    Row("No latent variable", 8.37, 20.6, 0.42),
]
TABLE3 = [  # StackedMNIST
    Row("VEEGAN (Srivastava et al.)", modes=762, KL=2.173),
    Row("PacGAN (Lin et al.)", modes=992, KL=0.277),
    Row("PresGAN (Dieng et al.)", modes=1000, KL=0.115),
    Row("InclusiveGAN (Yu et al.)", modes=997, KL=0.200),
    Row("StyleGAN2 (Karras et al.)", modes=940, KL=0.424),
    Row("Adv. DSM (Jolicoeur-Martineau et al.)", modes=1000, KL=1.49),
    Row("VAEBM (Xiao et al.)", modes=1000, KL=0.087),
    Row("Denoising Diffusion GAN (ours)", modes=1000, KL=0.071),
]
TABLE4 = [  # CelebA-HQ 256
    Row("Denoising Diffusion GAN (ours)", FID=7.64),
    Row("Score SDE (Song et al., 2021c)", FID=7.23),
    Row("LSGM (Vahdat et al., 2021)", FID=7.22),
    Row("UDM (Kim et al., 2021)", FID=7.16),
    Row("NVAE (Vahdat & Kautz, 2020)", FID=29.7),
    Row("VAEBM (Xiao et al., 2021)", FID=20.4),
    Row("NCP-VAE (Aneja et al., 2021)", FID=24.8),
    Row("PGGAN (Karras et al., 2018)", FID=8.03),
    Row("Adv. LAE (Pidhorskyi et al., 2020)", FID=19.2),
    Row("VQ-GAN (Esser et al., 2021b)", FID=10.2),
    Row("DC-AE (Parmar et al., 2021)", FID=15.8),
]
TABLE5 = [  # LSUN Church 256
    Row("Denoising Diffusion GAN (ours)", FID=5.25),
    Row("DDPM (Ho et al., 2020)", FID=7.89),
    Row("ImageBART (Esser et al., 2021a)", FID=7.32),
    Row("Gotta Go Fast (Jolicoeur-Martineau et al.)", FID=25.67),
    Row("PGGAN (Karras et al., 2018))", FID=6.42),  # both brackets are the paper's
    Row("StyleGAN (Karras et al., 2019)", FID=4.21),
    Row("StyleGAN2 (Karras et al., 2020b)", FID=3.86),
    Row("CIPS (Anokhin et al., 2021)", FID=2.92),
]
# fmt: on
