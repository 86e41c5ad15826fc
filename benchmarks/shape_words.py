"""Words of texts and of answers, for the rules of shape_rules.py."""

import math
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

MOST_WORDS, MOST_CHARACTERS = 40, 200
"""What is shown of a text: some 50 tokens, so that its last word still stands before a reader of 64."""
LANGUAGES: Final = ("spanish", "german", "french", "italian")
_TRANSLATIONS: Final = """
positive positivo positiv positif positivo
negative negativo negativ négatif negativo
neutral neutral neutral neutre neutrale
very positive | muy positivo | sehr positiv | très positif | molto positivo
very negative | muy negativo | sehr negativ | très négatif | molto negativo
anger ira Wut colère rabbia
disgust asco Ekel dégoût disgusto
fear miedo Angst peur paura
joy alegría Freude joie gioia
sadness tristeza Trauer tristesse tristezza
surprise sorpresa Überraschung surprise sorpresa
optimism optimismo Optimismus optimisme ottimismo
joyful alegre fröhlich joyeux gioioso
angry enfadado wütend fâché arrabbiato
peaceful tranquilo friedlich paisible tranquillo
proud orgulloso stolz fier fiero
sad triste traurig triste triste
scared asustado ängstlich effrayé spaventato
polite cortés höflich poli cortese
impolite descortés unhöflich impoli scortese
good bueno gut bon buono
bad malo schlecht mauvais cattivo
correct correcto richtig correct corretto
wrong incorrecto falsch faux sbagliato
certain cierto sicher certain certo
possible posible möglich possible possibile
impossible imposible unmöglich impossible impossibile
same igual gleich identique uguale
different diferente verschieden différent diverso
fair justo gerecht juste equo
unfair injusto ungerecht injuste iniquo
funny gracioso lustig drôle divertente
serious serio ernst sérieux serio
ironic irónico ironisch ironique ironico
sincere sincero aufrichtig sincère sincero
elementary elemental elementar élémentaire elementare
intermediate intermedio mittel intermédiaire intermedio
advanced avanzado fortgeschritten avancé avanzato
background contexto Hintergrund contexte contesto
method método Methode méthode metodo
objective objetivo Ziel objectif obiettivo
result resultado Ergebnis résultat risultato
results resultados Ergebnisse résultats risultati
other otro anderes autre altro
computers ordenadores Computer ordinateurs computer
sales ventas Verkauf ventes vendite
politics política Politik politique politica
religion religión Religion religion religione
science ciencia Wissenschaft science scienza
sports deportes Sport sport sport
world mundo Welt monde mondo
business negocios Wirtschaft économie affari
baseball béisbol Baseball baseball baseball
cars coches Autos voitures automobili
hockey hockey Eishockey hockey hockey
motorcycles motocicletas Motorräder motos motociclette
genuine auténtica echt authentique autentica
fake falsa gefälscht fausse falsa
plot argumento Handlung intrigue trama
opinion opinión Meinung opinion opinione
hateful odioso hasserfüllt haineux odioso
offensive ofensivo beleidigend offensant offensivo
harmless inofensivo harmlos inoffensif innocuo
"""


def _translations() -> dict[str, dict[str, str]]:
    rows = [[one.strip() for one in (row.split("|") if "|" in row else row.split())] for row in _lines(_TRANSLATIONS)]
    return {english: dict(zip(LANGUAGES, others, strict=True)) for english, *others in rows}


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()


TRANSLATIONS: Final = _translations()
"""English name of a label: its word in each of the languages."""


def words(text: str) -> list[str]:
    """Words as written, without punctuation at their ends; what holds no letter or digit is no word."""
    found = (piece.strip(string.punctuation + "\u201c\u201d\u2018\u2019\u2013\u2014«»…¡¿") for piece in text.split())
    return [piece for piece in found if any(map(str.isalnum, piece))]


def cut(text: str, most_words: int = MOST_WORDS, most_characters: int = MOST_CHARACTERS) -> str:
    """The beginning of a text, whole words of it, with single spaces."""
    kept: list[str] = []
    for piece in text.split()[:most_words]:
        if kept and len(" ".join(kept)) + 1 + len(piece) > most_characters:
            break
        kept.append(piece[:most_characters])
    return " ".join(kept)


def cut_pair(text: str, pair: str) -> tuple[str, str]:
    """Both texts, cut to what one alone may have: the shorter gives what it does not need to the longer."""
    half = MOST_CHARACTERS // 2
    first, second = " ".join(text.split()), " ".join(pair.split())
    return (
        cut(first, most_characters=max(half, MOST_CHARACTERS - len(second))),
        cut(second, most_characters=max(half, MOST_CHARACTERS - len(first))),
    )


def listed(parts: Sequence[str], last: str = "or") -> str:
    """Parts with commas, and a word before the last of them."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


Evidence = Mapping[str, Sequence[int]]
"""Word in small letters: in how many texts of each label it stands; under the empty word, how many texts there are."""


def evidence_of(rows: Iterable[tuple[str, int]], labels: int) -> Evidence:
    """Counts over texts with their labels."""
    counts: dict[str, list[int]] = {"": [0] * labels}
    for text, label in rows:
        counts[""][label] += 1
        for word in Counter(map(str.lower, words(text))):
            counts.setdefault(word, [0] * labels)[label] += 1
    return counts


def telling_word(text: str, label: int, evidence: Evidence) -> str | None:
    """The word of three letters or more that speaks most for a label, by log odds with one text added to each side.

    Of equals the first; `None` where a text has no such word.
    """
    sizes = evidence[""]

    def odds(word: str) -> float:
        counts = evidence.get(word.lower(), (0,) * len(sizes))
        own = (counts[label] + 1) / (sizes[label] + 2)
        others = (sum(counts) - counts[label] + 1) / (sum(sizes) - sizes[label] + 2)
        return math.log(own / others)

    found = [word for word in words(text) if sum(map(str.isalpha, word)) >= 3]
    return max(found, key=odds, default=None)
