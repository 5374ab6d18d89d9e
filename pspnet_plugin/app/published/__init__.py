"""Published datasets of several fields: from the archive as it comes to images and label maps.

A module for each dataset knows which files its archives hold and what their labels mean; reading
archives, checking and writing are the same for all of them.
"""

from __future__ import annotations

from . import camvid, ksdd2, loveda, potsdam, severstal, synapse
from .dataset import PublishedDataset

PUBLISHED: dict[str, PublishedDataset] = {
    'camvid': camvid.DATASET,
    'loveda': loveda.DATASET,
    'potsdam': potsdam.DATASET,
    'synapse': synapse.DATASET,
    'severstal': severstal.DATASET,
    'ksdd2': ksdd2.DATASET,
}
