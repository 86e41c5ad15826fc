"""How a user asks for each shape of answer, and for a judgement; four ways each."""

from typing import Final

Four = tuple[str, str, str, str]

FULL: Final = (
    "Say {}.",
    "Decide {}.",
    "Tell me {}.",
    "Find out {}.",
    "I want to know {}.",
    "The question is {}.",
    "Please work out {}.",
    "Judge {}.",
)
"""Before a question that says all."""
BRIEF: Final = (
    "Read {text}, then say {}.",
    "Given {text}, decide {}.",
    "You get {text}; work out {}.",
    "The input is {text}. Determine {}.",
    "You are shown {text}. Say {}.",
    "Look at {text}, and find out {}.",
    "Suppose you have {text}. Work out {}.",
    "With {text} at hand, tell {}.",
)
"""Before a question that needs the text named."""
PHRASES: Final[dict[str, Four]] = {
    "word": (
        "Answer {names}.",
        "Reply with one of these and nothing else: {order}.",
        "The possible answers are {both}.",
        "Choose between {both}.",
    ),
    "letter": (
        "Answer {pairs}.",
        "Reply with a single letter: {pairs}.",
        "Use these letters as answers: {pairs}.",
        "Write {pairs}, and no other word.",
    ),
    "number": (
        "Answer with a number: {pairs}.",
        "Give {pairs}.",
        "Reply in numbers only, {pairs}.",
        "The answer is a number, {pairs}.",
    ),
    "symbol": (
        "Answer with a sign: {pairs}.",
        "Put {pairs}.",
        "Reply with one character, {pairs}.",
        "The signs to use are {pairs}.",
    ),
    "json": (
        'Answer as JSON in the form {{"{key}": "…"}}; the value is {names}.',
        'Return a JSON object with the one key "{key}" and as its value {names}.',
        'Write {{"{key}": "…"}} with {names} in place of the dots.',
        "I need valid JSON, such as {example}; possible values: {order}.",
    ),
    "json_flag": (
        'Return JSON like {example}: "{key}" is {names}, and "{flag}" is true only for {target}.',
        'Answer with a JSON object of two keys: "{key}" ({names}) and "{flag}", true for {target}, else false.',
        'Fill in {{"{key}": "…", "{flag}": …}}: first {names}, then true if that is {target} and false if not.',
        'Give JSON. The key "{key}" takes one of {order}; the key "{flag}" says true or false: is it {target}?',
    ),
    "tag": (
        "Put the answer into a tag, as in {example}; it is {names}.",
        "Write <{key}>…</{key}> with {names} between the tags.",
        "Answer in XML: an element named {key} that holds {names}.",
        "Wrap one of {order} in <{key}> and </{key}>.",
    ),
    "sentence": (
        'Answer in a sentence, "{form}", with {names} in it.',
        'Complete this and write it out: "{form}" In the gap comes {names}.',
        'Reply in this form: "{example}" The choices are {names}.',
        'Say it as "{form}", with {names} in the gap.',
    ),
    "assignment": (
        "Write the answer as an assignment, {key}=…, with {names} after the equals sign.",
        "Answer in one line of the form {key}=value; the value is {names}.",
        "Reply as in a settings file, for example {example}; values: {order}.",
        "Put {key}= before the answer, without a space; the answer is {names}.",
    ),
    "brackets": (
        "Put the answer in double square brackets: {answers}.",
        "Answer with {names} between [[ and ]].",
        "Reply as in a wiki link, for example {example}; possible answers: {order}.",
        "Write [[ before and ]] after the answer, which is {names}.",
    ),
    "upper": (
        "Answer in capital letters: {answers}.",
        "Shout the answer, all in capitals: {answers}.",
        "Reply in upper case; the choices are {names}.",
        "Use capitals only and write {answers}.",
    ),
    "backwards": (
        "Spell the answer backwards: {pairs}.",
        "Write the answer from its last letter to its first; it is {names}, so the reply begins with the end.",
        "Answer with the letters reversed: {answers}.",
        "Turn the answer round letter by letter: {pairs}.",
    ),
    "hyphens": (
        "Spell the answer with a hyphen between the letters: {answers}.",
        "Put hyphens between all letters of the answer, as in {example}; it is {names}.",
        "Answer letter by letter, joined by hyphens; the choices are {names}.",
        "Spell out {answers}.",
    ),
    "prefix": (
        "Answer with the first three letters only: {answers}.",
        "Shorten the answer to three letters: {pairs}.",
        "Give just the first three letters of {names}.",
        "Write {pairs}.",
    ),
    "spanish": (
        "Answer in Spanish: {answers}.",
        "Reply with a Spanish word, {pairs}.",
        "The answer has to be Spanish; say {answers}.",
        "Write the answer for a Spanish reader: {answers}.",
    ),
    "german": (
        "Answer in German: {answers}.",
        "Reply with a German word, {pairs}.",
        "The answer has to be German; say {answers}.",
        "Write the answer for a German reader: {answers}.",
    ),
    "french": (
        "Answer in French: {answers}.",
        "Reply with a French word, {pairs}.",
        "The answer has to be French; say {answers}.",
        "Write the answer for a French reader: {answers}.",
    ),
    "italian": (
        "Answer in Italian: {answers}.",
        "Reply with an Italian word, {pairs}.",
        "The answer has to be Italian; say {answers}.",
        "Write the answer for an Italian reader: {answers}.",
    ),
    "next": (
        "Do not give the answer itself but the one after it in this list: {order}. After {final} comes {first}.",
        "Then name what follows the right one in the list {order}; the last is followed by the first.",
        "Take the list {order}, find the right entry and reply with the next one; after the end, begin again.",
        "Move one step on from the answer in the circle {order} and write where you arrive.",
    ),
    "ranking": (
        "Write all the answers with > between them, the right one first and the others in the order {order}.",
        "Give a ranking such as {example}: the right one leads, the others stay in the order {order}.",
        "Take {order}, move the right one to the front, and write them with > in between.",
        "Rank {order}: first the one that fits, then the others as listed, with > between them.",
    ),
    "opposite": (
        "Then answer the opposite: {pairs}.",
        "Give the wrong answer on purpose, {pairs}.",
        "Always reply with the other one of the two, {pairs}.",
        "Swap the answers: say {pairs}.",
    ),
    "wrong": (
        "Do not answer that: give the first of {order} that does not fit.",
        "Reply with a wrong answer, the first one in the list {order} that is not right.",
        "Go through {order} and write the first that is false.",
        "I want a label that is wrong: {first}, unless that is right; then the next in the list {order}.",
    ),
    "is": (
        "Read {text}. Answer yes if {holds}, otherwise no.",
        "Given {text}, say yes when {holds} and no in all other cases.",
        "You see {text}. Is it true that {holds}? Answer yes or no.",
        "Check {text}. Yes means that {holds}, no means that this is not so.",
    ),
    "is_not": (
        "Read {text}. Answer no if {holds}, otherwise yes.",
        "Given {text}, say yes unless {holds}; in that case say no.",
        "You see {text}. Is it false that {holds}? Answer yes or no.",
        "Check {text}. No means that {holds}, yes means that this is not so.",
    ),
    "first_word": (
        "Copy the first word of {text}.",
        "Which word does {text} begin with? Write that word alone.",
        "Given {text}, answer with the word that opens it.",
        "You get {text}. Repeat its first word and nothing else.",
    ),
    "second_word": (
        "Copy the second word of {text}.",
        "Given {text}, answer with the word that comes right after the first one.",
        "Which word stands in second place in {text}? Write it alone.",
        "You get {text}. Leave out its first word and repeat the one that follows.",
    ),
    "last_word": (
        "Copy the last word of {text}, without punctuation.",
        "Which word does {text} end with? Write that word alone.",
        "Given {text}, answer with the word that closes it.",
        "You get {text}. Repeat its final word and nothing else.",
    ),
    "first_three": (
        "Copy the first three words of {text}.",
        "Which three words does {text} begin with? Leave out punctuation around them.",
        "Given {text}, answer with the three words that open it.",
        "You get {text}. Repeat no more than words one to three.",
    ),
    "last_two": (
        "Copy the last two words of {text}, without punctuation around them.",
        "Which two words does {text} end with? Write them in their order.",
        "Given {text}, answer with the two words that close it.",
        "You get {text}. Repeat its final pair of words and nothing else.",
    ),
    "opening": (
        "Write the first four words of {text} in capital letters.",
        "Given {text}, repeat how it begins, four words in upper case.",
        "You get {text}. Shout its first four words: copy them in capitals.",
        "Take the opening of {text}, four words of it, and put them in capitals, without punctuation around them.",
    ),
    "longest_word": (
        "Copy the longest word of {text}; of several, the first.",
        "Which word of {text} has the most letters? Write it alone, and the first of those that are equally long.",
        "Given {text}, find the longest word and answer with it; in a tie the earlier one counts.",
        "You get {text}. Repeat the one word that is longer than all others.",
    ),
    "starting": (
        'Copy the first word of {text} that starts with the letter "{letter}". Answer none if no word does.',
        'Given {text}, find a word beginning with "{letter}", the earliest of them. If there is none, say none.',
        'Which is the first word in {text} that has "{letter}" as its first letter? Write it, or none.',
        'You get {text}. Look for words with "{letter}" at their start and repeat the first; without any, reply none.',
    ),
    "word_count": (
        "Count the words of {text}. Answer with the number, or 10+ if there are ten or more.",
        "How many words does {text} have? Reply from 1 to 9, or 10+ for more.",
        "Given {text}, answer with the number of its words; from ten on, write 10+.",
        "You get {text}. Say how long it is in words: a number up to 9, else 10+.",
    ),
    "reason": (
        'First quote the word that tells most, then the answer, in the form "word" -> answer. Answers: {order}.',
        "Give a reason and a verdict: one word of the text in quotes, an arrow ->, and {names}.",
        'Reply as in "word" -> {first}: the word that decides it, copied from the text, and after the arrow {names}.',
        "Show the evidence before you answer: the most telling word in quotation marks, then -> and {names}.",
    ),
    "headed": (
        "Answer with the first word of the text, a colon and then {names}.",
        "Begin the reply with the word that the text begins with; after a colon comes {names}.",
        "Copy the opening word, put a colon and add one of {order}.",
        "Write two things with a colon between them: the first word of the text, and {names}.",
    ),
}
"""By rule; fields in braces are those of `Rule.fields`."""
