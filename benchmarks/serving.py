"""How long does an answer of the gateway take with the embedded policy?  Prints seconds; no test depends on it.

    pip install -e ".[serve]"
    python benchmarks/serving.py [--policies "{unpacked: true}" …] [--n 4] [--problems 8]

For each policy a gateway of its own is started by `python -m dreamprm_lib serve`, and an `openai` client asks it one
training problem after the other, with the samples of its statement.  All policies are asked with the same seeds, and
each has a cache of its own, with links to the weights alone, so that nothing was written or read before.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import openai

from dreamprm_lib.engine.files import cache_dir
from dreamprm_lib.engine.problems import load_problems

POLICIES = ("{}", "{unpacked: true}", "{model: qwen2.5-coder-0.5b-instruct-q4_k_m}")


def measure(policy: str, n: int, problems: int, cache: Path) -> str:
    (cache_dir() / "engine").mkdir(parents=True, exist_ok=True)
    for weights in (*cache_dir().glob("*.gguf"), cache_dir() / "engine", cache_dir() / "safetensors"):
        (cache / weights.name).symlink_to(weights)
    command = [sys.executable, "-m", "dreamprm_lib", "serve", "--port", "0", "--n", str(n)]
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "--policy", policy],
        env=os.environ | {"DREAMPRM_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            address = re.search(r"http://\S+", server.stdout.readline() if server.stdout else "")
            if not address:
                sys.exit(f"The gateway with the policy {policy} did not start: run `{' '.join(command)}` to see why.")
            ready = time.perf_counter() - started
            client = openai.OpenAI(base_url=address[0], api_key="none", timeout=600)
            costs = []
            for problem in load_problems("starter", "train")[:problems]:
                samples = [{"input": sample.input, "output": sample.output} for sample in problem.samples]
                answer = client.chat.completions.create(
                    model="dreamprm",
                    messages=[{"role": "user", "content": problem.statement}],
                    seed=0,
                    extra_body={"dreamprm": {"samples": samples}},
                )
                costs.append(answer.dreamprm["cost"])
        finally:
            server.send_signal(signal.SIGTERM)
    seconds, tokens = ([cost[name] for cost in costs] for name in ("seconds", "completion_tokens"))
    return (
        f"{policy}: ready after {ready:.0f} s; best of {n} in {statistics.median(seconds):.0f} s "
        f"({min(seconds):.0f} to {max(seconds):.0f}), for {statistics.mean(tokens):.0f} tokens a problem"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--policies", nargs="+", default=POLICIES, help="fields of a policy (default: %(default)s)")
    parser.add_argument("--n", type=int, default=4, help="programs for an answer (default: 4)")
    parser.add_argument("--problems", type=int, default=8, help="training problems that are asked (default: 8)")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores", flush=True)
    for policy in options.policies:
        with tempfile.TemporaryDirectory() as cache:
            print(measure(policy, options.n, options.problems, Path(cache)), flush=True)
