"""Left-right symmetry of an image: whether both sides of a bilateral body part are in it.

A frontal chest film shows two lungs about a spine. A crop to one side or to a corner shows one, and
is sharp and well exposed all the same. So the image is correlated with its own mirror image, row by
row, about the vertical midline that fits best within 9 % of the width from the centre.

Global symmetry about an axis that is searched for is the measure of Hogeweg et al. (Medical Physics
44(6), 2017) for chest radiographs. A correlation on very few pixels is that of Lehmann et al. (J
Digit Imaging 16(3), 2003), who tell frontal from lateral films by 8 to 32 pixels a side. Neither
exposure nor contrast nor inversion changes it. It says nothing of above and below: a crop to the
upper half is as symmetric as the whole. And a film is asymmetric too when it is turned, or when one
lung is white: what follows is therefore the card's to say (`registry.card.SymmetryRule`).
"""

from operator import truediv

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16  # pixels of what is compared
REACH = 3  # the midline is sought so many half pixels to either side of the centre
LEAST_VARIANCE = 1.0  # within a row, display levels squared: below, there is nothing to judge


def _weights() -> NDArray[np.float64]:
    """What to add up of the columns' products, for each midline, shape (2, midlines, SIDE * SIDE).

    With G[c, d] the sum over rows of column c times column d, the mirrored covariance about a
    midline is the sum of G[c, mirror(c)] less the rows' means, and the variance that of G[c, c].
    Both are multiplied by the number of columns that have a partner: then all is whole numbers, and
    the result does not depend on the order of a sum.
    """
    columns = np.arange(SIDE)
    covariances, variances = [], []
    for last in range(SIDE - 1 - REACH, SIDE + REACH):
        mirror = last - columns
        paired = (mirror >= 0) & (mirror < SIDE)
        means = np.outer(paired, paired)
        meet = (columns == mirror[:, None]) & paired[:, None]
        covariances.append(paired.sum() * meet - means)
        variances.append(paired.sum() * np.diag(paired) - means)
    return np.array([covariances, variances], np.float64).reshape(2, -1, SIDE * SIDE)


_WEIGHTS = _weights()


def symmetry(picture: Image.Image) -> float | None:
    """Correlation with the mirror image, -1..1; None for an image without contrast.

    Args:
        picture: Grey, mode L, at least `SIDE` pixels wide and high; else None.
    """
    if min(picture.size) < SIDE:
        return None
    factor = max(min(picture.size) // (4 * SIDE), 1)  # two steps of averaging cost half of one
    few = picture.reduce(factor) if factor > 1 else picture
    grid = np.asarray(few.resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.float64)
    covariances, variances = (_WEIGHTS @ (grid.T @ grid).ravel()).tolist()  # lists: seven numbers
    if min(variances) < LEAST_VARIANCE * SIDE**3:
        return None
    return float(max(map(truediv, covariances, variances)))
