"""How fast does the embedded engine write?  Prints tokens a second and peak memory; no test depends on it.

    pip install xllamacpp   # llama.cpp, for this benchmark alone
    python benchmarks/generation.py [--model qwen2.5-coder-1.5b-instruct-q4_k_m] [--sequences 16 64 128] [--tokens 64]

Three ways to write the same number of tokens from the same Chain-of-Functions prompts (starter problems of the training
split, eight samples each), each in a process of its own, in one run:

- `embedded`: OpenVINO GenAI, as the suite uses it;
- `llama.cpp`: its server with a slot for each sequence, by the `openai` client;
- `transformers`: bfloat16, batches of 32 (left out with --skip transformers, where bfloat16 is emulated).

Samples that end early are cut; all ways ignore the end of the reply, so that each writes exactly `--tokens` tokens.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

SAMPLES = 8
WAYS = ("embedded", "llama.cpp", "transformers")


def prompts(sequences: int) -> list[str]:
    """Rendered prompts of the first training problems, one for eight sequences."""
    from dreamprm_lib.chain_of_functions import cof_prompt
    from dreamprm_lib.engine.policy.policy import render_chatml
    from dreamprm_lib.engine.problems import load_problems

    problems = load_problems("starter", "train")[: max(1, sequences // SAMPLES)]
    return [render_chatml(cof_prompt(problem)) for problem in problems]


def embedded(model: str, sequences: int, tokens: int, threads: int) -> tuple[float, int]:
    from dreamprm_lib.engine.policy.completions import Request
    from dreamprm_lib.engine.policy.embedded import Engine

    engine = Engine(model, sequences, threads=threads)
    extra = json.dumps({"ignore_eos": True})
    asked = [Request(model, "completion", p, 0.8, 0.95, tokens, (), extra) for p in prompts(sequences)]
    started = time.perf_counter()
    written = sum(c.tokens for _, _, c in engine.ask((request, list(range(SAMPLES))) for request in asked))
    return time.perf_counter() - started, written


def llama_cpp(model: str, sequences: int, tokens: int, threads: int) -> tuple[float, int]:
    from concurrent.futures import ThreadPoolExecutor

    import openai
    import xllamacpp

    from dreamprm_lib.engine.weights import weights_path

    params = xllamacpp.CommonParams()
    params.model.path = str(weights_path(model))
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_parallel, params.n_ctx, params.n_gpu_layers = sequences, sequences * 1024, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    client = openai.OpenAI(base_url=f"{server.listening_address}/v1", api_key="none", timeout=3600)

    def ask(prompt: str) -> int:
        extra = {"top_k": 0, "min_p": 0.0, "cache_prompt": True, "ignore_eos": True}
        reply = client.completions.create(
            model=model, prompt=prompt, n=SAMPLES, temperature=0.8, top_p=0.95, max_tokens=tokens, extra_body=extra
        )
        return tokens * len(reply.choices)

    started = time.perf_counter()
    with ThreadPoolExecutor(len(prompts(sequences))) as pool:  # all at once, as in the embedded engine
        written = sum(pool.map(ask, prompts(sequences)))
    return time.perf_counter() - started, written


def transformers(model: str, sequences: int, tokens: int, threads: int) -> tuple[float, int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dreamprm_lib.engine.weights import safetensors_folder

    torch.set_num_threads(threads)
    folder = safetensors_folder(model)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts = [p for p in prompts(sequences) for _ in range(SAMPLES)]
    started, written = time.perf_counter(), 0
    for k in range(0, len(texts), 32):
        batch = tokenizer(texts[k : k + 32], return_tensors="pt", padding=True)
        out = network.generate(**batch, do_sample=True, max_new_tokens=tokens, min_new_tokens=tokens)
        written += out.shape[0] * (out.shape[1] - batch.input_ids.shape[1])
    return time.perf_counter() - started, written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b-instruct-q4_k_m")
    parser.add_argument("--sequences", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--tokens", type=int, default=64, help="written a sequence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip", nargs="*", default=[], choices=WAYS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        way = {"embedded": embedded, "llama.cpp": llama_cpp, "transformers": transformers}[arguments.way]
        seconds, written = way(arguments.model, arguments.sequences[0], arguments.tokens, arguments.threads)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "tokens": written, "memory": memory}))
        return
    print(f"{arguments.model}, {arguments.threads} threads, {arguments.tokens} tokens a sequence")
    for sequences in arguments.sequences:
        rates = {}
        for way in (way for way in WAYS if way not in arguments.skip):
            command = [sys.executable, __file__, "--way", way, "--model", arguments.model]
            command += ["--sequences", str(sequences), "--tokens", str(arguments.tokens)]
            command += ["--threads", str(arguments.threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            rates[way] = found["tokens"] / found["seconds"]
            told = f"{sequences:4} sequences, {way:12} {rates[way]:6.1f} tokens/s, {found['memory']:.1f} GB"
            if way != "embedded" and "embedded" in rates:
                told += f", embedded is {rates['embedded'] / rates[way]:.1f} times as fast"
            print(told, flush=True)


if __name__ == "__main__":
    main()
