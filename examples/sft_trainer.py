"""TRL's SFTTrainer on a model of apply_to, with neural collapse measured.

    python sft_trainer.py MODEL TEXT.txt OUT

Needs: pip install trl.
"""

import sys

from datasets import load_dataset
from transformers import DataCollatorForLanguageModeling
from trl import SFTConfig, SFTTrainer

import ncfast
from ncfast.integrations.transformers import NeuralCollapseCallback
from ncfast.language import LanguageModel, WordSet

language = LanguageModel.load(sys.argv[1], progress=False)
texts = load_dataset("text", data_files=sys.argv[2], split="train[:64]", cache_dir=sys.argv[3])
ncfast.apply_to(language.model)  # SFTTrainer has a loss without logits; evaluation takes this one
args = SFTConfig(
    sys.argv[3],
    max_steps=20,
    max_length=32,
    eos_token=language.tokenizer.sep_token,  # the tiny tokenizer of the tests has no other
    learning_rate=1e-3,
    logging_steps=5,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    bf16=False,
)
trainer = SFTTrainer(language.model, args, train_dataset=texts, processing_class=language.tokenizer)
collator = DataCollatorForLanguageModeling(language.tokenizer, mlm=False)
held_out = collator([language.tokenizer(row["text"]) for row in texts.select(range(16))])
words = WordSet.load("gender").to_classes(language.tokenizer).ids
NeuralCollapseCallback([held_out], language.tokenizer, words, every=10).attach(trainer)
trainer.train()
print("loss", trainer.state.log_history[-1]["train_loss"])
