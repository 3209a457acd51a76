r"""Trains from scratch the small Llama and tokenizer that `keepstep demo` fine-tunes.

The embedded model was trained on the six novels of Jane Austen (died 1817, public domain), taken from the
R package `janeaustenr` 1.0.0 (MIT for the package; the texts themselves are public domain), which Debian
ships as `r-cran-janeaustenr`. Each novel is one character vector; from R, for instance:

    writeLines(janeaustenr::emma, "emma.txt")

for `sensesensibility`, `prideprejudice`, `mansfieldpark`, `emma`, `northangerabbey` and `persuasion`, then:

    python tools/train_demo_model.py --bf16 --out src/keepstep/demo/assets/model \
        --text sensesensibility.txt prideprejudice.txt mansfieldpark.txt \
               emma.txt northangerabbey.txt persuasion.txt

The result is a plain Hugging Face directory (config, generation config, bfloat16 safetensors, tokenizer) that
`AutoModelForCausalLM` and `AutoTokenizer` load without any code of this project.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SPECIAL_TOKENS = [PAD, BOS, EOS]
HELD_OUT_BLOCK = 4096


def clean_text(raw: str) -> str:
    """Undoes hard line wraps and plain-text typography, one line per paragraph."""
    raw = raw.replace("\r\n", "\n").replace("_", "")
    raw = raw.translate(str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'"}))
    raw = re.sub(r"-{2,}", "—", raw)
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", raw))
    return "\n".join(part for part in paragraphs if part)


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Learns a byte-level BPE, which can spell any text and so needs no unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, out: Path, context: int) -> None:
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    # Written by hand: the class name that transformers 5 would write is unknown to transformers 4.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "padding_side": "right",
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def split_tokens(tokens: torch.Tensor, held_out_every: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Holds out every n-th block, so that the validation set spans every text."""
    blocks = list(tokens.split(HELD_OUT_BLOCK))
    held_out = blocks[held_out_every - 1 :: held_out_every]
    kept = [block for i, block in enumerate(blocks) if (i + 1) % held_out_every]
    return torch.cat(kept), torch.cat(held_out)


def batches(tokens: torch.Tensor, context: int, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless shuffled epochs of rows, each epoch cut at a different offset."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        offset = int(torch.randint(context, (1,), generator=generator))
        rows = (len(tokens) - offset) // context
        cut = tokens[offset : offset + rows * context].view(rows, context)
        order = torch.randperm(rows, generator=generator)
        yield from (cut[picked] for picked in order.split(batch) if len(picked) == batch)


@torch.no_grad()
def validation_loss(model: LlamaForCausalLM, tokens: torch.Tensor, context: int) -> float:
    """Mean next-token loss in nats over consecutive rows of the held-out tokens."""
    model.eval()
    rows = tokens[: len(tokens) // context * context].view(-1, context)
    losses = [float(model(input_ids=part, labels=part).loss) * len(part) for part in rows.split(16)]
    model.train()
    return sum(losses) / len(rows)


def build_model(args: argparse.Namespace, tokenizer: Tokenizer) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=args.context,
        tie_word_embeddings=True,
        attention_dropout=args.dropout,
        pad_token_id=tokenizer.token_to_id(PAD),
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
    )
    return LlamaForCausalLM(config)


def make_optimizer(model: LlamaForCausalLM, args: argparse.Namespace) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98), eps=1e-8)


def learning_rate_at(done: float, peak: float) -> float:
    """Linear warm-up over the first 4 %, then a cosine down to 2 % of the peak."""
    if done < 0.04:
        return peak * done / 0.04
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.04) / 0.96)))


def train(model: LlamaForCausalLM, kept: torch.Tensor, held_out: torch.Tensor, args: argparse.Namespace) -> float:
    optimizer = make_optimizer(model, args)
    steps = int(args.epochs * len(kept) / (args.batch * args.context))
    rows = batches(kept, args.context, args.batch, args.seed)
    started = time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step / steps, args.learning_rate)
        picked = next(rows)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = model(input_ids=picked, labels=picked, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % args.report_every == 0 or step == steps:
            held = validation_loss(model, held_out[: 64 * args.context], args.context)
            print(
                f"step {step}/{steps}  train {loss.item():.3f}  held-out {held:.3f}  "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
    return validation_loss(model, held_out, args.context)


def sample(model: LlamaForCausalLM, tokenizer: Tokenizer, prompt: str) -> str:
    model.eval()
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    torch.manual_seed(0)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=0.7,
        top_k=50,
        max_new_tokens=40,
        pad_token_id=model.config.pad_token_id,
    )
    return tokenizer.decode(out[0].tolist())


def save_model(model: LlamaForCausalLM, out: Path) -> None:
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(out)
    # safetensors makes its file readable by the owner alone, which a wheel would keep.
    (out / "model.safetensors").chmod(0o644)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train from scratch the small Llama and tokenizer that `keepstep demo` fine-tunes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--text", nargs="+", type=Path, required=True, help="UTF-8 text files to learn from")
    parser.add_argument("--out", type=Path, required=True, help="directory to write (made if missing)")
    parser.add_argument("--vocab", type=int, default=3072, help="tokenizer vocabulary size")
    parser.add_argument("--hidden", type=int, default=192, help="width of the model")
    parser.add_argument("--intermediate", type=int, default=512, help="width of the feed-forward layers")
    parser.add_argument("--layers", type=int, default=4, help="number of layers")
    parser.add_argument("--heads", type=int, default=6, help="attention heads per layer")
    parser.add_argument("--context", type=int, default=256, help="tokens per training row")
    parser.add_argument("--batch", type=int, default=8, help="rows per optimizer step")
    parser.add_argument("--epochs", type=float, default=4.0, help="passes over the kept tokens")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak learning rate of AdamW")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="weight decay of the matrices")
    parser.add_argument("--dropout", type=float, default=0.0, help="attention dropout while training")
    parser.add_argument("--held-out-every", type=int, default=25, help="hold out one block of tokens in this many")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where the CPU is fast at it")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--report-every", type=int, default=100, help="steps between two lines of progress")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the row order")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    texts = [clean_text(path.read_text(encoding="utf-8")) for path in args.text]
    tokenizer = train_tokenizer(texts, args.vocab)
    save_tokenizer(tokenizer, args.out, args.context)
    eos = tokenizer.token_to_id(EOS)
    tokens = torch.tensor([i for text in texts for i in [*tokenizer.encode(text).ids, eos]])
    kept, held_out = split_tokens(tokens, args.held_out_every)
    model = build_model(args, tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(kept):,} tokens, {len(held_out):,} held out", flush=True)
    final = train(model, kept, held_out, args)
    print(f"final held-out loss {final:.3f} nats per token (perplexity {math.exp(final):.1f})")
    save_model(model, args.out)
    print(sample(model, tokenizer, "She had always"))


if __name__ == "__main__":
    main()
