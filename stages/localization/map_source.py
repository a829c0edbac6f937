"""Where the score maps of the stage seeds come from: an earlier artifact, CLIP, or a classifier. Loads no torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from artifacts.store import Artifact, Writer
from stages.contract import Execution
from stages.localization.seeds_config import ClipSource, SeedsConfig


class MapSource:
    """Where score maps come from: an earlier artifact, CLIP, or the classifier (both loaded when first needed)."""

    def __init__(
        self,
        config: SeedsConfig,
        dataset: Any,
        ids: Sequence[str],
        earlier: Artifact | None,
        classifier: Artifact | None,
        predictions: Artifact | None,
        writer: Writer,
        execution: Execution,
    ) -> None:
        from stages.localization.predicted_masks import masks_of

        self.config, self.dataset, self.ids, self.execution = config, dataset, ids, execution
        self.earlier, self._artifact = earlier, classifier
        self.masks = None if predictions is None else masks_of(predictions, dataset)
        self._classifier: Any = None
        self._dtype: Any = None  # of autocast
        self.device_name = "cpu"
        self.clip: Any = None
        if isinstance(config.source, ClipSource) and self.earlier is None:
            from stages.localization.clip_source import ClipMaps

            self.clip = ClipMaps(config.source, dataset, config.max_pixels, writer, execution)
            self.device_name = self.clip.device_name

    @functools.cached_property
    def partners(self) -> dict[str, list[str]] | None:
        """Of a classifier that looks at images in groups, the others of each image's group."""
        from stages.localization.partners import partners_of

        number = 0 if self.earlier or self.clip else getattr(self._network()[0], "partners", 0)
        return partners_of(self.dataset, self.ids, number) if number else None

    def _snapshots(self) -> list[Any]:
        """The classifier at earlier steps of its training, where their maps count too."""
        from stages.networks import load_network
        from stages.networks.loading import snapshots_of

        files = snapshots_of(self._artifact).values() if self.config.cam.snapshots == "all" else ()
        return [load_network(self._artifact, file) for file in files]

    def batches(self, ids: Sequence[str]) -> list[list[str]]:
        """The batches in which `maps` computes them."""
        from stages.localization.activation_maps import batches_of

        if self.clip is not None:
            return list(self.clip.batches(ids))
        size = 1 if self.earlier is not None else self.config.cam.batch_size
        return batches_of(self.dataset, ids, size, self.config.max_pixels)

    def maps(self, ids: Sequence[str]) -> Iterator[Any]:
        """Objects with image_id, scores (K, h, w), classes, size and stride."""
        if self.earlier is not None:
            from artifacts.score_maps import ScoreMaps

            earlier = ScoreMaps(self.earlier)
            return (self._fitting(earlier[image_id]) for image_id in ids)
        if self.clip is not None:
            return iter(self.clip.maps(ids))
        from stages.localization.activation_maps import class_activation_maps
        from stages.networks.folding import for_inference

        classifier, device = self._network()
        cam = self.config.cam
        dtype = self._dtype
        return class_activation_maps(
            for_inference(classifier, device, dtype),
            self.dataset,
            ids,
            scales=cam.scales,
            flip=cam.flip,
            merge=cam.merge,
            batch_size=cam.batch_size,
            max_pixels=self.config.max_pixels,
            device=device,
            dtype=dtype,
            threads=self.execution.own_workers,
            earlier=[for_inference(network, device, dtype) for network in self._snapshots()],
            partners=self.partners,
            masks=self.masks,
        )

    def _fitting(self, found: Any) -> Any:
        """Earlier maps of an image; DataError when they are not of its labels and its size."""
        from artifacts.score_maps import check_fits

        cure = "the data set changed since they were made: compute the maps, leave out --maps"
        check_fits(found, self.dataset, cure=cure)
        return found

    def write_gradients(self, writer: Writer, ids: Sequence[str]) -> None:
        """saliency/<id>.png for SEC's background, where it is not there yet."""
        from stages.localization.activation_maps import gradient_ranks
        from stages.localization.saliency import encode_saliency

        todo = [image_id for image_id in ids if not writer.has(f"saliency/{image_id}.png")]
        if not todo:
            return
        classifier, device = self._network()
        ranks = gradient_ranks(
            classifier,
            self.dataset,
            todo,
            batch_size=self.config.cam.batch_size,
            max_pixels=self.config.max_pixels,
            device=device,
            threads=self.execution.own_workers,
            masks=self.masks,
        )
        with self.execution.progress.track(len(todo), "gradients") as tracker:
            for image_id, rank in ranks:
                writer.write_bytes(f"saliency/{image_id}.png", encode_saliency(rank))
                tracker.advance()

    def _network(self) -> tuple[Any, Any]:
        from stages.engine.device import autocast_dtype, describe_device, select_device
        from stages.networks import load_network

        device = select_device(self.execution.device)
        if self._classifier is None:
            self._classifier = load_network(self._artifact).to(device)
            self._dtype = autocast_dtype(self.config.cam.precision, device, self.execution.progress.note)
            self.device_name = describe_device(device)
        return self._classifier, device
