"""The embedded engine: OpenVINO GenAI reads a pinned GGUF file in this process and writes many completions at once.

Each sample is a request of its own, seeded by the digest of what is asked and by its index.  Where the engine computes
in float32, a sample is therefore the same on one machine whichever samples are written beside it.  Where it computes in
bfloat16, as it does on processors that have it, the size of a batch changes the rounding and now and then a token, and
only the same work gives the same samples.  Other processors give other samples of the same distribution, which is why
completions are recorded.

The first sample of a prompt is started alone.  When its prompt has been read, the other samples start from the cached
prompt.  Prompts are taken in alphabetical order, so that neighbours share the cached text of their instruction, their
worked example and their problem; the very first prompt is read before any other starts.

Not covered: GPUs, and models whose prompt and reply are longer than the cache.
"""

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from dreamprm_lib.engine.files import cache_dir
from dreamprm_lib.engine.policy.completions import Completion, Request
from dreamprm_lib.engine.weights import weights_path
from dreamprm_lib.errors import InputError, PolicyError

log = logging.getLogger(__name__)

UNPACKED = {"F32", "F16"}
READABLE = UNPACKED | {"Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"}  # the tensor types that the engine's reader knows
CACHE_GIGABYTES = 2  # of keys and values in eight bits: about 130,000 tokens of the 1.5B model


class Engine:
    """A model that writes completions on this machine's processors.

    `model` names pinned weights, or is the path of a GGUF file or of a folder in OpenVINO's form; `slots` samples are
    under way at once, and `unpacked` weights make few of them faster (`Endpoint`).  Loading takes some ten seconds.
    Raises `InputError` or `WeightsError` if there is no such model, `PolicyError` if the engine cannot open it.
    """

    def __init__(self, model: str, slots: int, unpacked: bool = False, threads: int | None = None):
        import openvino  # takes a second to load, and a replay needs no engine
        import openvino_genai

        self._genai, self._slots = openvino_genai, slots
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1}
        gigabytes = CACHE_GIGABYTES
        if openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT") == openvino.Type.bf16:
            settings["KV_CACHE_PRECISION"] = openvino.Type.bf16  # faster than to round keys and values to eight bits
            gigabytes *= 2
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = gigabytes
        scheduler.enable_prefix_caching = True
        scheduler.max_num_batched_tokens = 2048
        scheduler.max_num_seqs = slots
        file = readable_file(weights_path(model), unpacked)
        log.info("loading %s into the embedded engine", file)
        try:
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", settings, {})
        except RuntimeError as error:
            raise PolicyError(
                f"The embedded engine cannot open {file}: {str(error).strip().splitlines()[-1]} Check the file with "
                f"`python -m dreamprm_lib weights verify`, and that {gigabytes + 4} GB of memory are free."
            ) from error
        self._tokenizer = self._pipeline.get_tokenizer()
        self._started = 0

    def ask(self, wanted: Iterable[tuple[Request, list[int]]]) -> Generator[tuple[Request, int, Completion]]:
        """Each wanted sample of each request, in the order in which they are finished.

        To stop early, close the generator: what is under way is given up.
        """
        waiting = deque(sorted(wanted, key=lambda row: row[0].prompt))
        ready: deque[tuple[Request, int]] = deque()  # their prompts have been read
        running: dict[Any, tuple[Request, int]] = {}
        followers: dict[Any, list[int]] = {}  # of first samples whose prompts are being read
        some_are_read = False
        try:
            while waiting or ready or running:
                room = self._slots - len(running) - sum(map(len, followers.values()))
                while (ready or (waiting and (some_are_read or not running))) and (room > 0 or not running):
                    following: list[int] = []
                    if ready:
                        request, sample = ready.popleft()
                    else:
                        request, (sample, *following) = waiting.popleft()
                    handle = self._start(request, sample)
                    running[handle], followers[handle] = (request, sample), following
                    room -= 1 + len(following)
                self._pipeline.step()
                for handle in [handle for handle in followers if self._finished(handle) or handle.can_read()]:
                    ready.extend((running[handle][0], sample) for sample in followers.pop(handle))
                    some_are_read = True
                for handle in [handle for handle in running if self._finished(handle)]:
                    request, sample = running.pop(handle)
                    yield request, sample, self._completion(request, handle)
        finally:
            for handle in running:
                handle.cancel()
            if running:
                self._pipeline.step()  # lets go of what was cancelled

    def prompt_tokens(self, request: Request) -> int:
        """The number of tokens of a request's prompt."""
        return self._tokenizer.encode(request.prompt).input_ids.shape[1]

    def _start(self, request: Request, sample: int) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.logprobs, config.top_k = request.max_tokens, 1, 0
        config.do_sample = bool(request.temperature)
        if config.do_sample:
            config.temperature, config.top_p = request.temperature, request.top_p
            config.rng_seed = int(hashlib.sha256(f"{request.digest}/{sample}".encode()).hexdigest()[:8], 16)
        config.stop_strings, config.include_stop_str_in_output = set(request.stop), True
        for name, value in json.loads(request.extra or "{}").items():
            try:
                setattr(config, name, value)
            except (AttributeError, TypeError) as error:
                raise InputError(
                    f"`extra` sets {name!r} to {value!r}, which the embedded engine does not take: its settings are "
                    "the fields of OpenVINO's GenerationConfig."
                ) from error
        self._started += 1
        return self._pipeline.add_request(self._started, request.prompt, config)

    def _finished(self, handle: Any) -> bool:
        return handle.get_status() != self._genai.GenerationStatus.RUNNING

    def _completion(self, request: Request, handle: Any) -> Completion:
        """A finished sample.  Tokens and log-probabilities are those of all that was written, the end included."""
        if handle.get_status() != self._genai.GenerationStatus.FINISHED:
            raise PolicyError(
                f"The embedded engine gave up on a prompt of {self.prompt_tokens(request):,} tokens: with what else is "
                "under way it does not fit into the cache. Set `slots` in the policy's settings to fewer samples."
            )
        output = handle.read_all()[0]
        text = self._tokenizer.decode(list(output.generated_ids))
        ends = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        text = text[: min(ends)] if ends else text
        cut = output.finish_reason == self._genai.GenerationFinishReason.LENGTH and not ends
        logprob = round(sum(output.generated_log_probs), 4)
        return Completion(text, len(output.generated_ids), "length" if cut else "stop", logprob)


def readable_file(path: Path, unpacked: bool = False) -> Path:
    """A GGUF file that the engine can read: `path` itself, or a copy in the cache whose other tensors are Q8_0.

    Q5_0 tensors, for example, are not known to the engine.  Q8_0 holds them with an error far below their own rounding.
    With `unpacked`, all tensors of fewer bits become F16, so that the engine need not unpack them at each token.  The
    copy is made once and belongs to the file's name, size and time of change.  Raises `InputError` for a file that
    is no GGUF file.
    """
    if path.suffix != ".gguf":
        return path
    state = path.stat()
    form, kept = ("-unpacked", UNPACKED) if unpacked else ("", READABLE)
    copy = cache_dir() / "engine" / f"{path.stem}{form}-{state.st_size}-{state.st_mtime_ns}.gguf"
    if copy.exists():
        return copy
    import gguf  # slow to load, and needed once for each file

    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, OSError) as error:
        raise InputError(f"{path} is no GGUF file that can be read ({error}). Fetch it again.") from error
    if all(tensor.tensor_type.name in kept for tensor in reader.tensors):
        return path
    log.info("rewriting %s for the engine, once", path.name)
    copy.parent.mkdir(parents=True, exist_ok=True)
    temporary = copy.with_name(f"{copy.name}.{os.getpid()}.tmp")
    try:
        _rewrite(gguf, reader, temporary, kept)
        temporary.replace(copy)
    finally:
        temporary.unlink(missing_ok=True)
    return copy


def _rewrite(gguf: Any, reader: Any, path: Path, kept: set[str]) -> None:
    """A copy whose tensors have the types `kept`, or else the smallest of these that loses nothing to speak of."""
    other = gguf.GGMLQuantizationType.F16 if kept == UNPACKED else gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(path, reader.get_field(gguf.Keys.General.ARCHITECTURE).contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
            continue
        kind, *inner = field.types
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner[-1] if inner else None)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind.name not in kept:
            data, kind = gguf.quants.quantize(gguf.quants.dequantize(data, kind), other), other
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
