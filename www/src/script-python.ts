/** Python that training scripts are put together from; what it does is what `src/data` of the crate does. */

import type { DataFormat, DataShape } from './types.js';

/** The rows of a file in a format, of its `text`, within a function of `path` and `format`. */
export const READERS: Record<DataFormat, string> = {
  parquet: String.raw`
    if format == "parquet":
        return Dataset.from_parquet(path).to_list()`,
  jsonl: String.raw`
    if format == "jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]`,
  json: String.raw`
    if format == "json":
        found = json.loads(text)
        if isinstance(found, list):
            return found
        # Of an object that is no example itself, the list of them.
        lists = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        example = found.keys() & {"messages", "conversations", "prompt", "chosen", "rejected"}
        return lists[0] if lists and not example else [found]`,
  csv: String.raw`
    if format == "csv":
        return table(text, max(",;\t", key=text.split("\n")[0].count))`,
  tsv: String.raw`
    if format == "tsv":
        return table(text, "\t")`,
  text: String.raw`
    if format == "text":
        return [{"text": text}]`,
};

/** What a `row` becomes that has the columns of a shape, in the order in which they are looked for. */
export const SHAPES: Record<Exclude<DataShape, 'mapped'>, string> = {
  preference: String.raw`
    if "chosen" in row and "rejected" in row:
        return [pair(row.get("prompt"), row["chosen"], row["rejected"], listed(row.get("tools")))]`,
  messages: String.raw`
    if "messages" in row:
        return [chat(listed(row["messages"]), listed(row.get("tools")))]`,
  sharegpt: String.raw`
    if "conversations" in row:
        return [chat(turns(row["conversations"], text(row.get("system"))), listed(row.get("tools")))]`,
  alpaca: String.raw`
    if "instruction" in row and "output" in row:
        instruction, given, output, system = (text(row.get(name)) for name in ("instruction", "input", "output", "system"))
        if tokenizer.chat_template:
            return [answered(f"{instruction}\n\n{given}" if given else instruction, output, system)]
        prompt = "Below is an instruction that describes a task"
        prompt += ", paired with an input that provides further context. " if given else ". "
        prompt += f"Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
        prompt += f"### Input:\n{given}\n\n" if given else ""
        return [plain(prompt + "### Response:\n", output)]`,
  prompt_completion: String.raw`
    if "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, list):
            return [chat(prompt + completion, listed(row.get("tools")), given=len(prompt))]
        return [plain(prompt, completion)]`,
  question_answer: String.raw`
    for question, answer in QUESTIONS:
        if question in row and answer in row:
            return [answered(text(row[question]), text(row[answer]), between="\n")]`,
  text: String.raw`
    if "text" in row:
        return windows(row["text"])`,
};

/** By name; each may use those before it. `tokenizer` and `MAX_LENGTH` are there. */
export const DEFINITIONS: Record<string, string> = {
  QUESTIONS: `
# Names that a question and its answer go by.
QUESTIONS = [
    ("question", "answer"), ("question", "response"), ("query", "response"), ("query", "answer"),
    ("prompt", "response"), ("prompt", "answer"), ("instruction", "response"), ("input", "output"),
]`,
  ROLES: `
# Who speaks, as ShareGPT's files call them.
ROLES = {"system": "system", **dict.fromkeys(("human", "user"), "user")}
ROLES.update(dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "function_call"), "assistant"))
ROLES.update(dict.fromkeys(("tool", "observation", "function_response"), "tool"))`,
  ENDS: `
# Tokens that end an answer.
ENDS = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<|end|>", "</s>"}
ENDS = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special and token.content in ENDS}
ENDS.add(tokenizer.eos_token_id)`,
  table: String.raw`
def table(text, separator):
    """The rows of a table, whose first line has the names; every value is a text."""
    csv.field_size_limit(1 << 24)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    names = [name.strip() for name in next(lines)]
    return [dict(zip(names, line)) for line in lines if len(line) == len(names)]`,
  text: `
def text(value):
    """A column's value as text."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))`,
  listed: `
def listed(value):
    """Tables have lists as JSON in a text."""
    return json.loads(value) if isinstance(value, str) and value.strip().startswith("[") else value`,
  column: String.raw`
def column(row, source):
    """The column of this name, else what the template makes of the row."""
    if source in row or not set("{}") & set(source):
        return row[source]
    filled = lambda found: found[0][0] if found[1] is None else text(row[found[1]])
    return re.sub(r"\{\{|\}\}|\{([^{}]*)\}", filled, source)`,
  led: `
def led(messages, system):
    """A conversation with what it begins with, unless it has that itself."""
    own = messages and messages[0]["role"] == "system"
    return [{"role": "system", "content": system}, *messages] if system and not own else messages`,
  turns: `
def turns(conversation, system=""):
    """A conversation in ShareGPT's names, or in those that it has here."""
    named = lambda turn: turn if turn.get("role") else {"role": ROLES[turn["from"]], "content": turn["value"]}
    return led([named(turn) for turn in listed(conversation)], system)`,
  plain: `
def plain(prompt, completion):
    """Tokens of a text in two parts, of which the second is learned, with the token that ends it."""
    encoded = tokenizer(prompt + completion, return_offsets_mapping=True)
    ids, learned = encoded["input_ids"], [start >= len(prompt) for start, _ in encoded["offset_mapping"]]
    if ids[-1:] != [tokenizer.eos_token_id]:
        ids, learned = ids + [tokenizer.eos_token_id], learned + [True]
    return {"input_ids": ids, "labels": [id if known else -100 for id, known in zip(ids, learned)]}`,
  windows: `
def windows(text):
    """All of a text: as many tokens as fit in an example, then the next."""
    first = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else []
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = ids if ids[-1:] == [tokenizer.eos_token_id] else ids + [tokenizer.eos_token_id]
    size = (MAX_LENGTH or len(ids) + len(first)) - len(first)
    parts = [first + ids[at : at + size] for at in range(0, len(ids), size)]
    return [{"input_ids": part, "labels": part} for part in parts]`,
  chat: String.raw`
def chat(messages, tools=None, given=0):
    """Tokens of a conversation; what the assistant says after the first ${'`'}given${'`'} messages is learned."""
    def written(until, **more):
        return tokenizer.apply_chat_template(messages[:until], tools=tools, return_dict=True, **more)

    marked = re.search(r"\{%-?\s*generation", tokenizer.chat_template) is not None
    whole = written(None, return_assistant_tokens_mask=marked)
    ids = whole["input_ids"]
    if marked:  # The template says what answers are.
        start = len(written(given, add_generation_prompt=True)["input_ids"]) if given else 0
        learned = [at >= start and bool(known) for at, known in enumerate(whole["assistant_masks"])]
    else:
        learned = [False] * len(ids)
        for at in range(given, len(messages)):
            if messages[at]["role"] != "assistant":
                continue
            prompt = written(at, add_generation_prompt=True)["input_ids"]
            if ids[: len(prompt)] != prompt:
                raise ValueError(f"message {at + 1}: the chat template writes it differently when a conversation goes on")
            # To the token that ends the turn: what a template writes behind it is not the model's to say.
            turn = range(len(prompt), len(written(at + 1)["input_ids"]))
            end = next((token + 1 for token in turn if ids[token] in ENDS), turn.stop)
            learned[len(prompt) : end] = [True] * (end - len(prompt))
    return {"input_ids": ids, "labels": [id if known else -100 for id, known in zip(ids, learned)]}`,
  answered: `
def answered(prompt, completion, system="", between="", as_chat=tokenizer.chat_template is not None):
    """A question and its answer: turns of a conversation, or one text."""
    if as_chat:
        return chat(led([{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}], system))
    return plain(system + prompt + between, completion)`,
  pair: `
def pair(prompt, chosen, rejected, tools=None):
    """Two answers to a prompt, which is given or what both begin with."""
    both = {"chosen": chosen, "rejected": rejected, **({"tools": tools} if tools else {})}
    alike = isinstance(chosen, list) and min(len(chosen), len(rejected)) > 1 and chosen[0] == rejected[0]
    if isinstance(chosen, list) and isinstance(prompt, str):
        prompt = None if alike else [{"role": "user", "content": prompt}]
    return extract_prompt(both) if prompt is None else {"prompt": prompt, **both}`,
  ended: `
def ended(row):
    """What a template writes behind the token that ends an answer is not the model's to say."""
    ends = lambda ids: [at + 1 for at, id in enumerate(ids) if id in ENDS] or [len(ids)]
    return {name: row[name][: ends(row[name])[-1]] for name in ("chosen_ids", "rejected_ids")}`,
};
