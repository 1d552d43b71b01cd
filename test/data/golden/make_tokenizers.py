"""Makes tokenizers.json: tiny tokenizers in the layouts of the supported model families, with the
ids and texts that the Rust library (`pip install tokenizers`) gives for varied text.
usage: make_tokenizers.py [SMOLLM2_DIR]   (with a directory, smollm2.json is made too)"""
import json, os, random, sys
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = ["Structured sparse fine-tuning trains a few channels and a few heads of the model.",
          "She sold 48 clips in April, then half as many in May: 48 + 24 = 72.", "don't you'll we've WE'RE it's",
          "the cat  sat on   the mat\n\nand then the dog ran", "über café naïve Straße", "日本語 テスト 中文",
          "const x = (a, b) => a + b // 1234567",
          "it cost £5 or £7, «the» cat « an »"] * 20
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def train(tokenizer, byte_level=True):
    special = SPECIAL if byte_level else ["<unk>", *SPECIAL, *("<0x%02X>" % i for i in range(256))]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(vocab_size=330 if byte_level else 400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def bos(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def byte_level(pre_tokenizer, normalizer=None, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.normalizer, tokenizer.decoder = normalizer, decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=isinstance(pre_tokenizer, pre_tokenizers.Digits))])
    return train(tokenizer)


def sentencepiece(metaspace):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    train(tokenizer, False)
    tokenizer.pre_tokenizer = None
    if metaspace:
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    return bos(tokenizer)


def split(behavior):
    return byte_level(pre_tokenizers.Split(Regex(r"\s"), behavior))


families = {
    "smollm2": byte_level(pre_tokenizers.Digits(individual_digits=True)),
    "digit groups": byte_level(pre_tokenizers.Digits(individual_digits=False)),
    "llama3": bos(byte_level(pre_tokenizers.Split(Regex(LLAMA3), "isolated"), ignore_merges=True)),
    "qwen2": byte_level(pre_tokenizers.Split(Regex(QWEN2), "isolated"), normalizers.NFC()),
    "llama2": sentencepiece(False),
    "mistral": sentencepiece(True),
    "merged_with_next": split("merged_with_next"),
    "merged_with_previous": split("merged_with_previous"),
    "contiguous": split("contiguous"),
}

rng = random.Random(20240613)


def character():
    r = rng.random()
    if r < 0.5: return chr(rng.randint(32, 126))
    if r < 0.6: return rng.choice(" \n\t\r '.")
    if r < 0.65: return rng.choice("²½Ⅳ٣፪①")
    if r < 0.8: return chr(rng.randint(0xA0, 0x24F))
    while True:
        c = rng.randint(0x250, 0x1FFFF)
        if not 0xD800 <= c < 0xE000 and c != 0xFEFF: return chr(c)


texts = ["", "Hello world", "  leading and trailing  ", "48 + 24 = 72, ½ ² ③ ٣٤ Ⅳ", "3 £ ² ½ ³ per m²", "don't I'LL we've", "tab\tnew\n\n\nline\r\n", "日本語テスト 中文",
         "👩‍👩‍👧‍👦 family 🇫🇷", "مرحبا नमस्ते 123", "e\u0301 \u1e9b\u0323 ａｂｃ", "\u00a0\u3000\u200b\u200d x", "<s>x</s> y<|im_end|>\n<|im_start|>user\nhi", "__proto__ constructor", "a" * 90, *CORPUS[:7]]
texts += ["".join(character() for _ in range(rng.randint(1, 30))) for _ in range(25)]


def cases(tokenizer):
    result = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        result.append(dict(text=text, ids=ids, bare=tokenizer.encode(text, add_special_tokens=False).ids, decoded=tokenizer.decode(ids), decodedAll=tokenizer.decode(ids, skip_special_tokens=False)))
    return result


def dump(name, value):
    with open(os.path.join(HERE, name), "w") as file: json.dump(value, file, ensure_ascii=False, separators=(",", ":"))


dump("tokenizers.json", {name: dict(tokenizer=json.loads(t.to_str()), cases=cases(t)) for name, t in families.items()})
if len(sys.argv) > 1: dump("smollm2.json", cases(Tokenizer.from_file(os.path.join(sys.argv[1], "tokenizer.json"))))
