"""The words and frames of the synthetic corpus: tables for the grammar in sentences.py."""

from collections.abc import Sequence
from typing import NamedTuple


def words(text: str) -> list[str]:
    return text.split()


def phrases(text: str) -> list[str]:
    return [" ".join(phrase.split()) for phrase in text.split(",")]


class Group(NamedTuple):
    """Nouns of one kind, the adjectives that suit them, how often they are plural."""

    nouns: list[str]
    adjectives: list[str]
    plurals: float = 0.0


# fmt: off
# Any other word twice in a sentence reads oddly: THE DOCTOR HELPED THE DOCTOR.
REPEATABLE = set(words("a an the to in on and did was were is are for that my his her our it i he she we they"))
HIM = words("Tom Ben Oliver Peter Martin Henry David Jack Sam Robert Oscar Adam")
HER = words("Anna Emma Lucy Sarah Alice Helen Nina Maria Laura Betty")
BOTH = words("farmer doctor teacher singer dancer driver student artist stranger")
KIN = words("friend brother uncle father grandfather sister mother grandmother cousin neighbor")
PERSONAL = words("old young tall kind clever poor rich happy quiet lazy proud honest famous")
STATES = words("red blue green black white yellow brown old new big small dirty clean broken heavy pretty strange")
GROUPS = {
    "man": Group(words("sailor painter baker hunter gardener captain pilot king boy man soldier") + BOTH + KIN[:5],
                 [*PERSONAL, "angry", "tired", "brave", "strong"], 0.25),
    "woman": Group(words("nurse queen girl woman actress lady") + BOTH + KIN[5:],
                   [*PERSONAL, "gentle", "lonely", "polite"], 0.25),
    "animal": Group(words("""dog cat horse cow pig goat duck rabbit fox wolf bird lamb frog monkey kitten puppy
                    parrot tiger"""),
                    words("small big black white brown wild hungry old young clever lazy fat"), 0.3),
    "thing": Group(words("""cup lamp book key ring bag candle card clock flag knife map picture pen plate rope
                   spoon stone brush camera kite ball coin basket bucket bottle letter"""),
                   [*STATES, "silver", "golden", "long", "round", "lost"], 0.3),
    "garment": Group(words("hat coat shirt shoe jacket dress blanket carpet towel belt"),
                     [*STATES[:9], "warm", "soft", "thin", "thick", "wet"], 0.25),
    "container": Group(words("box bag basket drawer trunk"), [*STATES, "wooden", "plastic", "empty"]),
    "opening": Group(words("box bag bottle letter parcel door window gate drawer jar"), STATES),
    "machine": Group(words("car bus truck train boat ship cart bike van taxi"), [*STATES[:9], "fast", "slow"]),
    "food": Group(words("apple egg cake lemon orange potato carrot onion sandwich banana cherry"),
                  words("fresh hot cold warm sweet good"), 0.5),
    "grocery": Group(words("bread rice soup milk butter cheese honey salt fish sugar jam tea coffee cream corn water"),
                     words("fresh hot cold warm sweet good")),
    "inside": Group(words("""kitchen school church station hotel library office shop castle barn prison hospital
                    museum tower cave cottage factory"""),
                    words("dark quiet busy cold little crowded silent narrow old new")),
    "outside": Group(words("market village garden city town harbor forest valley park field camp"),
                     words("quiet busy distant sunny empty lonely little pretty silent")),
    "landmark": Group(words("river lake hill road bridge street wall fence tree rock pond path"), STATES[7:11]),
    "furniture": Group(words("table shelf chair bed bench desk step"), [*STATES[:8], "wooden"]),
}
UNCOUNTED = {"grocery"}
PLACES = {"inside", "outside", "landmark", "furniture"}
NUMBERS = words("three five six seven nine ten twelve twenty some many several")
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
    "manner": words("slowly quickly quietly happily alone again "),
    "feeling": words("happy angry tired hungry thirsty sad nervous proud lonely afraid sick lucky late busy sorry"),
    "often": ("", "", "", "still", "often", "never"),
    "said": words("said thought hoped believed"),
    "nature": phrases("""the rain fell,the snow fell,the sun was shining,the storm began,the moon was bright,the fire
        was burning,the bell was ringing,the music stopped,the lights were out,it was raining,it was snowing,it was
        dark,it was late,it was a hot day,it was a cold night,the grass was wet,the wind was strong,the water was deep
        """),
    "past": phrases("""yesterday,last night,last winter,last summer,last week,last month,this morning,after lunch,
        before dinner,on Monday,on Friday,in April,in the evening,in the morning,a year ago,long ago,at noon"""),
    "habit": phrases("""every day,every morning,every summer,every winter,every Sunday,in the spring,on Tuesday,after
        school,at night"""),
    "future": phrases("tomorrow,tonight,soon,next week,next summer,next month,next Sunday,after dinner,before winter"),
    "now": phrases("today,now,again,this evening,this afternoon"),
    "one_day": phrases("""one day,one evening,last spring,in the morning,late at night,in the end,at last,after
        breakfast,once again,that afternoon,in the autumn"""),
    "link": words("because when while until before after although but so"),
    "opening_link": words("because when while after although before"),
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
STATIVE = set(words("want need love like fear remember forget see smell find lose"))
PAST = dict(pair.split(":") for pair in words("""find:found lose:lost hide:hid buy:bought sell:sold bring:brought
    keep:kept hold:held steal:stole put:put forget:forgot eat:ate make:made feed:fed catch:caught meet:met teach:taught
    see:saw leave:left run:ran shut:shut choose:chose drive:drove go:went sit:sat stand:stood sleep:slept sing:sang
    give:gave send:sent show:showed write:wrote bite:bit"""))
PLURAL = {"man": "men", "woman": "women", "wolf": "wolves", "knife": "knives"}
# fmt: on
