"""The stock Trainer without logits, and neural collapse measured as it trains.

    python trainer.py MODEL TEXT OUT

MODEL is a hub name, a folder or demo:bert-tiny; TEXT is a file, a folder or demo:text.
"""

import sys

from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

import ncfast
from ncfast.integrations.transformers import NeuralCollapseCallback
from ncfast.language import Corpus, LanguageModel, WordSet

language = LanguageModel.load(sys.argv[1], progress=False)
corpus = Corpus.from_spec([sys.argv[2]], language.tokenizer, block_size=32, progress=False)
rows = [{"input_ids": corpus.take([number]).input_ids[0]} for number in range(64)]
collator = DataCollatorForLanguageModeling(language.tokenizer, mlm=language.kind == "masked")
ncfast.apply_to(language.model)  # the one line: the model's own loss, without its logits
args = TrainingArguments(
    sys.argv[3],
    max_steps=20,
    learning_rate=1e-3,
    logging_steps=5,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
)
trainer = Trainer(language.model, args, data_collator=collator, train_dataset=rows)
words = WordSet.load("gender").to_classes(language.tokenizer).ids
NeuralCollapseCallback([collator(rows[:16])], language.tokenizer, words, every=10).attach(trainer)
trainer.train()
print("loss", trainer.state.log_history[-1]["train_loss"])
