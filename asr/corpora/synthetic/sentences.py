"""Generate sentences by a small grammar of simple English prose.

Nouns are grouped by what they can do or have done to them (people act, things are carried, places are gone to), verbs
by what follows them, so that a sentence agrees in number, tense and article and mostly makes sense. The words are
common, mostly short and spelled as they sound; of words that sound alike (BUY, BY; THEIR, THERE; TO, TWO) only one is
used, since nothing but a language model could tell them apart.
"""

import random
import re
from typing import NamedTuple

from asr.corpora.synthetic.words import (
    ANIMAL_DEEDS,
    DEEDS,
    GROUPS,
    HER,
    HIM,
    KIN,
    NUMBERS,
    PAST,
    PLACES,
    PLURAL,
    REPEATABLE,
    SLOTS,
    STATIVE,
    UNCOUNTED,
    Deeds,
)

MIN_WORDS, MAX_WORDS = 3, 12


class Subject(NamedTuple):
    """A subject: its words, whether its verb is plural, and what its own things are called (his, my)."""

    words: str
    plural: bool
    own: str


SINGULAR = (Subject("he", False, "his"), Subject("she", False, "her"))
YOU = Subject("you", True, "your")
PRONOUNS = (*SINGULAR, Subject("I", True, "my"), Subject("we", True, "our"), Subject("they", True, "the"))


def sentence(rng: random.Random) -> str:
    """Draw a sentence of MIN_WORDS to MAX_WORDS words, as it is printed but without commas: Did Anna find the key?"""
    while True:
        text = " ".join(_Writer(rng).fill("{sentence}").split())
        rare = [word for word in text.lower().split() if word not in REPEATABLE]
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS and len(rare) == len(set(rare)):
            return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def transcript(text: str) -> str:
    """Return the words of a sentence as in a transcript: capital letters and single spaces only."""
    return re.sub("[^A-Z ]", "", text.upper())


def past(verb: str) -> str:
    """Return the past tense; a short verb's last consonant doubles (stop, stopped)."""
    if re.search("[^aeiou]y$", verb):
        return verb[:-1] + "ied"
    return PAST.get(verb) or (verb + "d" if verb.endswith("e") else _doubled(verb) + "ed")


def third(word: str) -> str:
    """Return the -s form of a verb (carry, carries) and, by the same rule, the plural of a noun (cherry, cherries)."""
    if re.search("[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search("(s|x|z|ch|sh|o)$", word) else "s")


def progressive(verb: str) -> str:
    """Return the -ing form."""
    return (verb[:-1] if re.search("[^e]e$", verb) else _doubled(verb)) + "ing"


def _doubled(verb: str) -> str:
    return verb + verb[-1] if re.fullmatch("[^aeiou]*[aeiou][^aeiouwxy]|forget", verb) else verb


class _Writer:
    """Write a sentence from a stream of random numbers."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def pick(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def fill(self, frame: str, own: str = "the") -> str:
        """Fill every {slot} of a frame; `own` is what the subject's things are called (his, my, the)."""

        def filled(slot: re.Match[str]) -> str:
            name = slot[1]
            if name in SLOTS:
                return self.fill(self.rng.choice(SLOTS[name]), own)
            return self.noun_phrase(name, own) if name in GROUPS else getattr(self, name)()

        return re.sub("{([a-z_]+)}", filled, frame)

    def noun_phrase(self, slot: str, own: str, article: str = "") -> str:
        """Draw a noun of a group with an article or the like, and perhaps an adjective."""
        group = GROUPS[slot]
        noun = self.rng.choice(group.nouns)
        words = [*self.rng.sample(group.adjectives, int(self.rng.random() < 0.4)), noun]
        many = self.pick(*NUMBERS)
        if slot in UNCOUNTED:
            article = article or self.pick("the", "some", own)
        elif self.rng.random() < group.plurals:
            words[-1] = PLURAL.get(noun) or third(noun)
            article = many if article == "a" else article or self.pick("the", "the", "the", own, many, many, "these")
        elif slot in PLACES:
            article = article or self.pick("the", "the", "the", "a")
        elif slot in ("man", "woman"):
            mine = own if own != "the" else self.pick("my", "our")
            article = article or (mine if noun in KIN else self.pick("the", "the", "the", "a", "a", "that"))
        else:
            article = article or self.pick(
                *["the", "the", "the", "the", "a", "a", "a", "a", "this", "that", "another"], own, own, own, own
            )
        if article == "a" and re.match("[aeiou]|honest", words[0]):
            article = "an"
        return " ".join([article, *words])

    def described(self, slot: str, own: str = "the", article: str = "") -> Subject:
        """Return a noun phrase as a subject whose own things are called `own`."""
        words = self.noun_phrase(slot, self.pick("my", "our"), article)
        plural = words.split()[-1] not in GROUPS[slot].nouns
        return Subject(words, plural, "the" if plural else own)

    def someone(self) -> Subject:
        """Draw a pronoun, a name or a person described."""
        slot, names, own = self.rng.choice((("man", HIM, "his"), ("woman", HER, "her")))
        kind = self.rng.random()
        if kind < 0.5:
            return self.rng.choice(PRONOUNS) if kind < 0.3 else Subject(self.rng.choice(names), False, own)
        return self.described(slot, own)

    def someone_asked(self) -> Subject:
        who = self.someone()
        return YOU if who.words == "I" else who

    def be(self, who: Subject, tense: str) -> str:
        if tense == "past":
            return "were" if who.plural and who.words != "I" else "was"
        return "am" if who.words == "I" else "are" if who.plural else "is"

    def verb(self, who: Subject, verb: str, tense: str) -> str:
        """Return the verb with its auxiliaries, in one of the ways to say that tense."""
        if tense == "past":
            wish = past(self.pick("want", "try", "hope", "decide", "promise"))
            wishes = [] if verb in STATIVE else [f"{wish} to {verb}", f"had to {verb}"]
            return self.pick(*[past(verb)] * 7, f"did not {verb}", *wishes)
        if tense == "future":
            return self.pick("will", "will", "can", "must", "should", "may") + self.pick(" ", " ", " not ") + verb
        if tense == "now" and verb not in STATIVE:
            return f"{self.be(who, tense)} {progressive(verb)}"
        if who.plural:
            return self.pick(*[verb] * 4, f"do not {verb}", f"like to {verb}")
        return self.pick(*[third(verb)] * 6, f"does not {verb}", f"likes to {verb}")

    def deed(self, deeds: Deeds, own: str) -> tuple[str, str]:
        """Draw a verb and what follows it."""
        verbs, frame = self.rng.choices(deeds, [len(verbs.split()) for verbs, _ in deeds])[0]
        return self.rng.choice(verbs.split()), self.fill(frame, own)

    def clause(self, who: Subject, tense: str, deeds: Deeds = DEEDS, timed: float = 0.0) -> str:
        """Say that somebody does something, and with probability `timed` when."""
        verb, rest = self.deed(deeds, who.own)
        when = self.fill(f"{{{tense}}}") if self.rng.random() < timed else ""
        return f"{who.words} {self.verb(who, verb, tense)} {rest} {when}"

    def told(self) -> str:
        tense = self.pick("past", "past", "habit", "habit", "future", "now", "now")
        return self.clause(self.someone(), tense, timed=0.4)

    def animal_deed(self) -> str:
        return self.clause(self.described("animal"), self.pick("past", "habit", "now"), ANIMAL_DEEDS, timed=0.3)

    def somebody(self) -> str:
        return self.someone().words

    def somebody_did_it(self) -> str:
        return self.clause(self.someone(), "past")

    def somebody_did(self) -> str:
        deed = past(
            self.pick(
                *["sit", "wait", "sing", "work", "laugh", "smile", "talk", "dance", "leave", "sleep", "rest", "cry"]
            )
        )
        return f"{self.somebody()} {deed}"

    def somebody_felt(self, tense: str = "past", how: str = "{feeling}") -> str:
        who = self.someone()
        return f"{who.words} {self.be(who, tense)} {self.fill(how)}"

    def state(self) -> str:
        """Say how somebody feels, or how or where something is."""
        tense = self.pick("past", "now")
        if self.rng.random() < 0.4:
            return self.somebody_felt(tense, "{often} {feeling}")
        slot = self.pick("thing", "garment", "container", "machine", "opening", "inside", "outside", "animal")
        what = self.described(slot, article="the")
        how = self.pick(*GROUPS[slot].adjectives)
        where = self.fill("{spot}") if slot in ("thing", "garment") and self.rng.random() < 0.5 else how
        return f"{what.words} {self.be(what, tense)} {where}"

    def there_is(self) -> str:
        what = self.described(self.pick("thing", "garment", "animal", "food"), article="a")
        return f"there {self.be(what, self.pick('past', 'now'))} {what.words}"

    def two_deeds(self) -> str:
        who = self.someone()
        verb, rest = self.deed(DEEDS, who.own)
        return f"{self.clause(who, 'past')} {self.pick('and', 'and then')} {past(verb)} {rest}"

    def who_did(self) -> str:
        who = self.described(self.pick("man", "woman"), article="the")
        verb, rest = self.deed(DEEDS, "the")
        return f"{self.clause(who._replace(words=who.words + ' who'), 'past')} {past(verb)} {rest}"

    def request(self) -> str:
        verb, rest = self.deed(DEEDS, self.pick("my", "our", "your"))
        return self.request() if verb in STATIVE else f"{verb} {rest}"

    def question(self) -> str:
        """Ask about a deed."""
        who = self.someone_asked()
        verb, rest = self.deed(DEEDS, who.own)
        if verb not in STATIVE and self.rng.random() < 0.4:
            be = self.be(who, self.pick("past", "now"))
            return f"{self.pick('', 'why ')}{be} {who.words} {progressive(verb)} {rest}?"
        helper = self.pick("did", "will", "can", "why did", "when did", "how did", "when will", "how can")
        return f"{helper} {who.words} {verb} {rest}?"

    def asked(self) -> str:
        """Ask for a person, a thing or a place."""
        who, slot = self.someone_asked(), self.pick("animal", "thing", "garment", "food")
        thing = self.described(slot, article="the")
        goods = thing.words.removeprefix("the ")
        verb = self.pick("find", "lose", "buy", "sell", "see", "choose", "hide", "drop")
        answer, rest = self.deed(DEEDS, "the")
        return self.pick(
            f"what did {who.words} {verb} {self.fill('{where}')}?",
            f"which {goods} did {who.words} {verb}?",
            f"where did {who.words} {verb} {self.noun_phrase(slot, who.own)}?",
            f"who {past(answer)} {rest}?",
            f"where {self.be(thing, self.pick('past', 'now'))} {self.pick('my', 'your', 'our', 'the')} {goods}?",
        )
