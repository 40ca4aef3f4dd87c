"""The published measures of a generator, as formulas on features: FID, Inception Score, precision and recall, modes and their KL.

Everything is float64 on the CPU, wherever the features come from. Written from the papers that each function names.
"""

import torch

from ddgan_fast.errors import InputError

DISTANCES_AT_ONCE = 2**22  # of precision_recall: 32 MB of float64, whatever the number of images
SUM_SLACK = 1e-3  # by so much may the probabilities of an image miss 1: half precision does, logits do not pass


class Statistics:
    """Count, mean and covariance of features that come in batches, in memory that does not grow with their number.

    Batches and parts are joined by the parallel update of Chan, Golub, LeVeque (1979), so their sizes and order do not matter
    beyond rounding: ranks add what they have, and one merges the others.
    """

    def __init__(self, width):
        """width: the number of features D of an image, 1 or more."""
        if width < 1:
            raise InputError(f"features of width {width}: an image needs 1 feature or more")
        self.width = width
        self.count = 0
        self._mean = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)  # sum of (x - mean)(x - mean)^T

    def add(self, features):
        """Takes in features [N, D], N from 0; real numbers of any dtype and device. Raises InputError for NaN, inf or another width."""
        features = _matrix("features", features, self.width)
        if len(features):
            mean = features.mean(dim=0)
            offsets = features - mean
            self._join(len(features), mean, offsets.T @ offsets)

    def merge(self, other):
        """Takes in all that other Statistics took in; the other stays as it is. Raises InputError for another width."""
        if other.width != self.width:
            raise InputError(f"cannot merge statistics of {other.width} features into statistics of {self.width}")
        if other.count:
            self._join(other.count, other._mean, other._scatter)

    def _join(self, count, mean, scatter):
        """The means and scatters of two parts make those of the whole."""
        total = self.count + count
        shift = mean - self._mean
        self._mean = self._mean + shift * (count / total)
        self._scatter.add_(scatter).addr_(shift, shift, alpha=self.count * count / total)
        self.count = total

    @property
    def mean(self):
        """float64 [D]. Raises InputError before the first image."""
        if self.count < 1:
            raise InputError("the mean of no images: add features first")
        return self._mean

    @property
    def covariance(self):
        """float64 [D, D], unbiased (divided by N - 1). Raises InputError before the second image."""
        if self.count < 2:
            raise InputError(f"the covariance of {self.count} images: it needs 2 or more")
        return self._scatter / (self.count - 1)

    def to_dict(self):
        """{"count": int64 [], "mean": float64 [D], "scatter": float64 [D, D]}, numpy arrays for an npz; from_dict gives the same again.

        scatter: the covariance times N - 1, so that nothing is rounded on the way.
        """
        return {"count": torch.tensor(self.count).numpy(), "mean": self._mean.numpy().copy(), "scatter": self._scatter.numpy().copy()}

    @classmethod
    def from_dict(cls, arrays):
        """Statistics out of the arrays of to_dict, or of an npz that holds them. Raises InputError for arrays that it cannot have made."""
        missing = [name for name in ("count", "mean", "scatter") if name not in arrays]
        if missing:
            raise InputError(f"statistics without {', '.join(missing)}; they have {', '.join(arrays) or 'nothing'}")
        count, mean, scatter = (torch.as_tensor(arrays[name]) for name in ("count", "mean", "scatter"))
        if count.dim() or count.is_floating_point() or count < 0:
            raise InputError(f"statistics with a count of {count.tolist()}: it is one whole number from 0")
        if mean.dim() != 1 or scatter.shape != (len(mean), len(mean)):
            raise InputError(f"statistics with mean {list(mean.shape)} and scatter {list(scatter.shape)}: they are [D] and [D, D]")
        made = cls(len(mean))
        made.count = int(count)
        made._mean = _matrix("the mean of statistics", mean[None], made.width)[0].clone()
        made._scatter = _matrix("the scatter of statistics", scatter, made.width).clone()
        return made


def frechet_distance(a, b):
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), 0 or more: Dowson, Landau (1982); as FID Heusel et al. (2017), Eq. 6.

    a, b: Statistics of one width D, each of D + 1 images or more: of fewer the covariance is singular, and the distance says more
    about the number of images than about the images. Raises InputError otherwise.
    Precision: two equal sets are 1e-12 of their trace apart, also where features are constant.
    """
    if a.width != b.width:
        raise InputError(f"statistics of {a.width} and of {b.width} features cannot be compared")
    for side, statistics in (("first", a), ("second", b)):
        if statistics.count <= a.width:
            raise InputError(
                f"the {side} side has too few images for the covariance of {a.width} features: {statistics.count}; "
                f"it needs {a.width + 1} or more"
            )
    # The eigenvalues of C_a C_b are those of the symmetric S_a C_b S_a, with S the symmetric root, and so the squared singular values
    # of S_a S_b. Taken as such they are right to 1e-16 of the largest; the root of an eigenvalue near 0 would be so to 1e-8 only.
    root_trace = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    apart = (a.mean - b.mean).square().sum()
    return max((apart + a.covariance.trace() + b.covariance.trace() - 2 * root_trace).item(), 0.0)


def _root(covariance):
    """The symmetric root of a covariance; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def inception_score(probabilities, splits=10):
    """(mean, standard deviation) over the splits of exp(E[KL(p(y|x) || p(y))]), each 1 to classes: Salimans et al. (2016), section 4.

    probabilities: [N, classes], rows of a softmax, N of splits or more.  splits: consecutive parts of the rows, as equal as can be,
    the deviation is divided by their number.  The order of the rows matters, so they should be in random order, or of random images.
    Raises InputError for rows that are no probabilities, and for fewer rows than splits.
    """
    probabilities = _matrix("probabilities", probabilities)
    if splits < 1 or len(probabilities) < splits:
        raise InputError(f"{len(probabilities)} images in {splits} splits: there is 1 split or more, each of 1 image or more")
    wrong = (probabilities < 0).any(dim=1) | ((probabilities.sum(dim=1) - 1).abs() > SUM_SLACK)
    if wrong.any():
        raise InputError(f"probabilities: {int(wrong.sum())} of {len(wrong)} rows are negative or do not sum to 1; give the softmax")
    entropy = torch.special.entr
    borders = [len(probabilities) * split // splits for split in range(splits + 1)]
    parts = [probabilities[start:stop] for start, stop in zip(borders[:-1], borders[1:], strict=True)]
    # E[KL(p(y|x) || p(y))] = H(p(y)) - E[H(p(y|x))]
    scores = torch.stack([entropy(part.mean(dim=0)).sum() - entropy(part).sum(dim=1).mean() for part in parts]).exp()
    return scores.mean().item(), scores.std(correction=0).item()


def precision_recall(real, generated, k=3):
    """(precision, recall), each 0 to 1: Kynkaanniemi et al. (2019), Eqs. 1-2.

    precision: the share of generated images that lie in a real image's ball, which reaches to its k-th nearest other real image;
    recall: the share of real images that lie in a ball of the generated ones. The border belongs to the ball.
    real: [N, D].  generated: [M, D].  N, M: k + 1 or more, or InputError.  Memory: the features and 32 MB blocks of distances.
    Images nearer than the rounding of the distance count as the same image.
    """
    real = _matrix("real features", real)
    generated = _matrix("generated features", generated, real.shape[1])
    for side, features in (("real", real), ("generated", generated)):
        if k < 1 or len(features) <= k:
            raise InputError(f"{len(features)} {side} images and k = {k}: k is 1 or more, and there are k + 1 images or more")
    real_reach, generated_reach = _reach(real, k), _reach(generated, k)
    inside, reached = 0, torch.zeros(len(real), dtype=torch.bool)
    for rows, squares in _squared_distances(generated, real):
        inside += int((squares <= real_reach).any(dim=1).sum())
        reached |= (squares <= generated_reach[rows, None]).any(dim=0)
    return inside / len(generated), reached.double().mean().item()


def _reach(points, k):
    """float64 [N]: each point's squared distance to its k-th nearest other point."""
    reach = torch.empty(len(points), dtype=torch.float64)
    for rows, squares in _squared_distances(points, points):
        squares[torch.arange(len(squares)), torch.arange(len(points))[rows]] = torch.inf  # the point itself
        reach[rows] = squares.kthvalue(k, dim=1).values
    return reach


def _squared_distances(points, others):
    """Yields (slice of the points, their squared distances [n, M] to all others), of at most DISTANCES_AT_ONCE numbers or one row.

    |x|^2 + |y|^2 - 2 xy, which is ten times as fast as the differences. Its rounding is at most (D + 2) eps (|x|^2 + |y|^2); what is
    no more is 0, else copies of one point would lie outside each other's ball of radius 0.
    """
    squares, other_squares = points.square().sum(dim=1, keepdim=True), others.square().sum(dim=1)
    rounding = 4 * (points.shape[1] + 2) * torch.finfo(torch.float64).eps * squares  # near 0, |x| and |y| are the same; twice that
    step = max(1, DISTANCES_AT_ONCE // len(others))
    for start in range(0, len(points), step):
        rows = slice(start, start + step)
        block = torch.addmm(other_squares, points[rows], others.T, alpha=-2).add_(squares[rows])
        yield rows, block.masked_fill_(block <= rounding[rows], 0.0)


def modes_and_kl(labels, classes):
    """(number of classes that occur, KL(share of each class || uniform) in nats, 0 to log(classes)), for StackedMNIST: Metz et al. (2017).

    labels: integers [N], 0 to classes - 1, N 1 or more, else InputError.
    """
    labels = torch.as_tensor(labels)
    if labels.dim() != 1 or not len(labels) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels {list(labels.shape)} of {labels.dtype}: they are integers [N], N 1 or more")
    labels = labels.long().cpu()
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"labels from {labels.min()} to {labels.max()}: {classes} classes have 0 to {classes - 1}")
    counts = torch.bincount(labels, minlength=classes)
    return int((counts > 0).sum()), kl_from_uniform(counts)


def kl_from_uniform(counts):
    """KL(counts / their sum || uniform) in nats, 0 to log(K), of counts [K] whose sum is not 0."""
    shares = counts.double() / counts.sum()
    return max(torch.special.xlogy(shares, shares * len(shares)).sum().item(), 0.0)


def _matrix(name, values, width=None):
    """The values as float64 [N, D] on the CPU; InputError unless they are finite, and D is 1 or more, or the width."""
    values = torch.as_tensor(values).detach()
    if values.dim() != 2 or values.shape[1] < 1 or values.is_complex() or (width is not None and values.shape[1] != width):
        raise InputError(f"{name} {list(values.shape)} of {values.dtype}: they are real numbers [N, {'D' if width is None else width}]")
    values = values.to("cpu", torch.float64)
    broken = ~values.isfinite().all(dim=1)
    if broken.any():
        raise InputError(f"{name}: {int(broken.sum())} of {len(broken)} rows hold NaN or infinity")
    return values
