"""Sentences of our own making: a small grammar of simple English prose.

Nouns are grouped by what they can do or have done to them (people act, things are carried, places are gone to), verbs
by what follows them, so that a sentence agrees in number, tense and article and mostly makes sense. The words are
common, mostly short and spelled as they sound; of words that sound alike (BUY, BY; THEIR, THERE; TO, TWO) only one is
used, since nothing but a language model could tell them apart.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

MIN_WORDS, MAX_WORDS = 3, 12


def _words(text: str) -> list[str]:
    return text.split()


def _phrases(text: str) -> list[str]:
    return [" ".join(phrase.split()) for phrase in text.split(",")]


class Group(NamedTuple):
    """Nouns of one kind, the adjectives that suit them, how often they stand in the plural."""

    nouns: list[str]
    adjectives: list[str]
    plurals: float = 0.0


# fmt: off
# Any other word twice in a sentence reads oddly: THE DOCTOR HELPED THE DOCTOR.
REPEATABLE = set(_words("a an the to in on and did was were is are for that my his her our it i he she we they"))
HIM = _words("Tom Ben Oliver Peter Martin Henry David Jack Sam Robert Oscar Adam")
HER = _words("Anna Emma Lucy Sarah Alice Helen Nina Maria Laura Betty")
BOTH = _words("farmer doctor teacher singer dancer driver student artist stranger")
KIN = _words("friend brother uncle father grandfather sister mother grandmother cousin neighbor")
PERSONAL = _words("old young tall kind clever poor rich happy quiet lazy proud honest famous")
STATES = _words("red blue green black white yellow brown old new big small dirty clean broken heavy pretty strange")
GROUPS = {
    "man": Group(_words("sailor painter baker hunter gardener captain pilot king boy man soldier") + BOTH + KIN[:5],
                 [*PERSONAL, "angry", "tired", "brave", "strong"], 0.25),
    "woman": Group(_words("nurse queen girl woman actress lady") + BOTH + KIN[5:],
                   [*PERSONAL, "gentle", "lonely", "polite"], 0.25),
    "animal": Group(_words("""dog cat horse cow pig goat duck rabbit fox wolf bird lamb frog monkey kitten puppy
                    parrot tiger"""),
                    _words("small big black white brown wild hungry old young clever lazy fat"), 0.3),
    "thing": Group(_words("""cup lamp book key ring bag candle card clock flag knife map picture pen plate rope
                   spoon stone brush camera kite ball coin basket bucket bottle letter"""),
                   [*STATES, "silver", "golden", "long", "round", "lost"], 0.3),
    "garment": Group(_words("hat coat shirt shoe jacket dress blanket carpet towel belt"),
                     [*STATES[:9], "warm", "soft", "thin", "thick", "wet"], 0.25),
    "container": Group(_words("box bag basket drawer trunk"), [*STATES, "wooden", "plastic", "empty"]),
    "opening": Group(_words("box bag bottle letter parcel door window gate drawer jar"), STATES),
    "machine": Group(_words("car bus truck train boat ship cart bike van taxi"), [*STATES[:9], "fast", "slow"]),
    "food": Group(_words("apple egg cake lemon orange potato carrot onion sandwich banana cherry"),
                  _words("fresh hot cold warm sweet good"), 0.5),
    "grocery": Group(_words("bread rice soup milk butter cheese honey salt fish sugar jam tea coffee cream corn water"),
                     _words("fresh hot cold warm sweet good")),
    "inside": Group(_words("""kitchen school church station hotel library office shop castle barn prison hospital
                    museum tower cave cottage factory"""),
                    _words("dark quiet busy cold little crowded silent narrow old new")),
    "outside": Group(_words("market village garden city town harbor forest valley park field camp"),
                     _words("quiet busy distant sunny empty lonely little pretty silent")),
    "landmark": Group(_words("river lake hill road bridge street wall fence tree rock pond path"), STATES[7:11]),
    "furniture": Group(_words("table shelf chair bed bench desk step"), [*STATES[:8], "wooden"]),
}
UNCOUNTED = {"grocery"}
PLACES = {"inside", "outside", "landmark", "furniture"}
NUMBERS = _words("three five six seven nine ten twelve twenty some many several")
SLOTS = {  # what may stand for a {slot} that is no group
    "person": ("{name}", "{man}", "{man}", "{woman}", "{woman}"),
    "name": (*HIM, *HER),
    "object": ("{thing}", "{thing}", "{garment}"),
    "meal": ("{food}", "{grocery}"),
    "place": ("{inside}", "{inside}", "{outside}"),
    "goal": ("to {place}", "to {place}", "from {place}", "to {landmark}", "toward {landmark}"),
    "way": ("across {landmark}", "along {landmark}", "over {landmark}", "around {landmark}", "past {landmark}"),
    "where": ("in {place}", "in {place}", "near {landmark}", "beside {landmark}", "behind {landmark}"),
    "outdoors": ("in {outside}", "in {outside}", "near {landmark}", "beside {landmark}", "behind {landmark}"),
    "spot": ("in {container}", "on {furniture}", "under {furniture}", "near {furniture}", "behind {furniture}"),
    "manner": _words("slowly quickly quietly happily alone again "),
    "feeling": _words("happy angry tired hungry thirsty sad nervous proud lonely afraid sick lucky late busy sorry"),
    "often": ("", "", "", "still", "often", "never"),
    "said": _words("said thought hoped believed"),
    "nature": _phrases("""the rain fell,the snow fell,the sun was shining,the storm began,the moon was bright,the fire
        was burning,the bell was ringing,the music stopped,the lights were out,it was raining,it was snowing,it was
        dark,it was late,it was a hot day,it was a cold night,the grass was wet,the wind was strong,the water was deep
        """),
    "past": _phrases("""yesterday,last night,last winter,last summer,last week,last month,this morning,after lunch,
        before dinner,on Monday,on Friday,in April,in the evening,in the morning,a year ago,long ago,at noon"""),
    "habit": _phrases("""every day,every morning,every summer,every winter,every Sunday,in the spring,on Tuesday,after
        school,at night"""),
    "future": _phrases("tomorrow,tonight,soon,next week,next summer,next month,next Sunday,after dinner,before winter"),
    "now": _phrases("today,now,again,this evening,this afternoon"),
    "one_day": _phrases("""one day,one evening,last spring,in the morning,late at night,in the end,at last,after
        breakfast,once again,that afternoon,in the autumn"""),
    "link": _words("because when while until before after although but so"),
    "opening_link": _words("because when while after although before"),
    "short": ("{nature}", "{somebody_felt}", "{somebody_did} {manner}"),
    # Whole sentences; a slot that is neither here nor a group is a method of the writer.
    "sentence": ["{told}"] * 12 + ["{animal_deed}"] * 3 + ["{one_day} {somebody_did_it}"] * 3 + ["{state}"] * 3
        + ["{there_is} {spot}"] * 2 + ["{one_day} {nature}", "{nature} {outdoors}"] + ["{two_deeds}"] * 3
        + ["{somebody_did_it} {link} {short}", "{opening_link} {short} {somebody_did_it}"] * 2
        + ["{somebody} {said} that {short}", "{somebody} {said} that {somebody_did_it}", "{who_did}"]
        + ["please {request}", "do not {request}", "let us {request}", "you must {request}", "{asked}", "{asked}"]
        + ["{question}"] * 4,
}
# The verbs, and what follows them. Each pair of a verb and its frame is as likely as any other.
Deeds = Sequence[tuple[str, str]]
DEEDS: Deeds = (
    ("carry bring drag push pull", "{object} {goal}"),
    ("find lose drop hide buy sell hold steal want need count", "{object}"),
    ("find hide drop keep put forget lose leave", "{object} {spot}"),
    ("wash mend fold clean burn", "{garment}"),
    ("open shut", "{opening}"),
    ("fill", "{container}"),
    ("wait look ask", "for {object}"),
    ("eat cook serve finish", "{meal}"),
    ("cook make buy", "{meal} for {person}"),
    ("feed chase follow catch watch call like", "{animal}"),
    ("feed find see catch", "{animal} {outdoors}"),
    ("help thank visit follow teach remember kiss join answer love", "{person}"),
    ("help meet see visit", "{person} {where}"),
    ("leave reach search remember like", "{place}"),
    ("walk run drive hurry travel go", "{goal}"),
    ("walk run hurry climb jump", "{way}"),
    ("sit stand wait sleep sing dance work play stay talk cry", "{where}"),
    ("sit wait sing work laugh smile talk dance", "{manner}"),
    ("give send show hand offer sell", "{person} {object}"),
    ("talk listen write", "to {person} {where}"),
    ("drive stop wash follow paint sell", "{machine}"),
    ("drive push", "{machine} {goal}"),
)
ANIMAL_DEEDS: Deeds = (
    ("chase follow watch see fear", "{animal} {outdoors}"),
    ("run jump walk climb hurry", "{way}"),
    ("sleep sit stand hide wait play", "{outdoors}"),
    ("eat steal smell find", "{meal}"),
    ("follow bite watch love fear", "{person}"),
)
STATIVE = set(_words("want need love like fear remember forget see smell find lose"))
PAST = dict(pair.split(":") for pair in _words("""find:found lose:lost hide:hid buy:bought sell:sold bring:brought
    keep:kept hold:held steal:stole put:put forget:forgot eat:ate make:made feed:fed catch:caught meet:met teach:taught
    see:saw leave:left run:ran shut:shut choose:chose drive:drove go:went sit:sat stand:stood sleep:slept sing:sang
    give:gave send:sent show:showed write:wrote bite:bit"""))
PLURAL = {"man": "men", "woman": "women", "wolf": "wolves", "knife": "knives"}
# fmt: on


class Subject(NamedTuple):
    """Who does it: the words, whether the verb is plural, and what the subject's own things are called (his, my)."""

    words: str
    plural: bool
    own: str


SINGULAR = (Subject("he", False, "his"), Subject("she", False, "her"))
YOU = Subject("you", True, "your")
PRONOUNS = (*SINGULAR, Subject("I", True, "my"), Subject("we", True, "our"), Subject("they", True, "the"))


def sentence(rng: random.Random) -> str:
    """A sentence of MIN_WORDS to MAX_WORDS words as it would be printed, but without commas: Did Anna find the key?"""
    while True:
        text = " ".join(_Writer(rng).fill("{sentence}").split())
        rare = [word for word in text.lower().split() if word not in REPEATABLE]
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS and len(rare) == len(set(rare)):
            return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def transcript(text: str) -> str:
    """The words of a sentence as a transcript has them: capital letters and single spaces, nothing else."""
    return re.sub("[^A-Z ]", "", text.upper())


def past(verb: str) -> str:
    """The past tense; a short verb's last consonant doubles (stop, stopped)."""
    if re.search("[^aeiou]y$", verb):
        return verb[:-1] + "ied"
    return PAST.get(verb) or (verb + "d" if verb.endswith("e") else _doubled(verb) + "ed")


def third(word: str) -> str:
    """The -s form of a verb (carry, carries) and, by the same rule, the plural of a noun (cherry, cherries)."""
    if re.search("[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search("(s|x|z|ch|sh|o)$", word) else "s")


def progressive(verb: str) -> str:
    """The -ing form."""
    return (verb[:-1] if re.search("[^e]e$", verb) else _doubled(verb)) + "ing"


def _doubled(verb: str) -> str:
    return verb + verb[-1] if re.fullmatch("[^aeiou]*[aeiou][^aeiouwxy]|forget", verb) else verb


class _Writer:
    """Writes one sentence from one stream of random numbers."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def pick(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def fill(self, frame: str, own: str = "the") -> str:
        """The frame with every {slot} filled; `own` is what the subject's things are called (his, my, the)."""

        def filled(slot: re.Match[str]) -> str:
            name = slot[1]
            if name in SLOTS:
                return self.fill(self.rng.choice(SLOTS[name]), own)
            return self.noun_phrase(name, own) if name in GROUPS else getattr(self, name)()

        return re.sub("{([a-z_]+)}", filled, frame)

    def noun_phrase(self, slot: str, own: str, article: str = "") -> str:
        """A noun of a group with an article or the like, and perhaps an adjective."""
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
            article = article or self.pick(*_words("the the the the a a a a this that another"), own, own, own, own)
        if article == "a" and re.match("[aeiou]|honest", words[0]):
            article = "an"
        return " ".join([article, *words])

    def described(self, slot: str, own: str = "the", article: str = "") -> Subject:
        """A noun phrase as a subject whose own things are called `own`."""
        words = self.noun_phrase(slot, self.pick("my", "our"), article)
        plural = words.split()[-1] not in GROUPS[slot].nouns
        return Subject(words, plural, "the" if plural else own)

    def someone(self) -> Subject:
        """A pronoun, a name or a person described."""
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
        """The verb with its helpers, in one of the ways to say that tense."""
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
        """A verb and what follows it."""
        verbs, frame = self.rng.choices(deeds, [len(verbs.split()) for verbs, _ in deeds])[0]
        return self.rng.choice(verbs.split()), self.fill(frame, own)

    def clause(self, who: Subject, tense: str, deeds: Deeds = DEEDS, timed: float = 0.0) -> str:
        """Somebody does something, with chance `timed` at a time told."""
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
        deed = past(self.pick(*_words("sit wait sing work laugh smile talk dance leave sleep rest cry")))
        return f"{self.somebody()} {deed}"

    def somebody_felt(self, tense: str = "past", how: str = "{feeling}") -> str:
        who = self.someone()
        return f"{who.words} {self.be(who, tense)} {self.fill(how)}"

    def state(self) -> str:
        """How somebody feels; how or where something is."""
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
        """A question about a deed."""
        who = self.someone_asked()
        verb, rest = self.deed(DEEDS, who.own)
        if verb not in STATIVE and self.rng.random() < 0.4:
            be = self.be(who, self.pick("past", "now"))
            return f"{self.pick('', 'why ')}{be} {who.words} {progressive(verb)} {rest}?"
        helper = self.pick("did", "will", "can", "why did", "when did", "how did", "when will", "how can")
        return f"{helper} {who.words} {verb} {rest}?"

    def asked(self) -> str:
        """A question for a person, a thing or a place."""
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
