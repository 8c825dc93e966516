"""Good answers of language models: real captions and long synthetic ones, full of traps.

The traps are the words of bad answers in captions that are good: signs that quote refusals, people
who refuse, tables and enumerations that repeat words, JSON, code, reasoning as a subject.
"""

# ruff: noqa: E501, RUF001  phrases as they are, the letters of other scripts are meant

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.support.planted_answers import PROMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    """A good answer, its language, and what was asked."""

    text: str
    language: str
    prompt: str


_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey", "orange", "pink")
_THINGS = (
    "car", "bus", "chair", "umbrella", "bicycle", "kite", "boat", "vase", "suitcase", "truck",
    "bench", "laptop", "bottle", "surfboard", "clock", "teddy bear", "traffic light", "pizza",
)  # fmt: skip
_PEOPLE = (
    "a man",
    "a woman",
    "a young boy",
    "two girls",
    "an elderly couple",
    "a group of tourists",
    "a waiter",
    "a cyclist",
)
_DOINGS = (
    "walking down the street", "sitting at a table", "looking at a phone", "waiting for the train",
    "riding a horse", "holding a tennis racket", "standing in the kitchen", "playing the guitar",
)  # fmt: skip
_PLACES = (
    "in a park",
    "on the beach",
    "next to a window",
    "in front of a shop",
    "at the station",
    "under a bridge",
    "in a living room",
    "on a farm",
)
_TRAPS = (
    'A sign on the door reads "Sorry, we are closed".',
    "A note on the fridge says \"I'm sorry, but I can't make it tonight\".",
    "A laptop screen shows a chat with the words \"I'm sorry, but I can't assist with that.\"",
    "The man refuses to let go of the rope.",
    "The cat cannot reach the shelf.",
    "It cannot be seen from here what is behind the door.",
    "A boy is unable to hold his laughter.",
    "I cannot tell which breed the dog is, but it is small and brown.",
    "The exact location can't be determined from the picture.",
    'A poster repeats the word "no" three times: no, no, no.',
    "There is no visible text in the image.",
    "There are no people in the image.",
    "No faces are visible, as everyone has turned away.",
    "The pattern of blue and white tiles repeats across the whole wall.",
    'A robot stands beside a sign that reads "As an AI, I cannot feel".',
    'The bus shows the destination "Not in service".',
    "A sad-looking dog seems sorry for the broken vase.",
    "Please note that the photo is slightly blurred.",
    "A help desk with a queue of people who need assistance.",
    'A banner reads "I can\'t breathe" in large letters.',
    "A refusal card lies on the table next to the contract.",
    "The second half of the page is left empty.",
    "The page of a book about artificial intelligence and language models lies open.",
    "The woman appears to be thinking, with her hand on her chin.",
    "A screen with the HTML tag <think> in a text editor.",
    'An apology is written on the cake in pink icing: "Sorry Mum".',
    "The chart shows an analysis of sales by month.",
    "A very, very long queue stretches around the block.",
    "Ha ha ha ha is written in a speech bubble.",
    "The scoreboard shows 0 0 0 0 1 0 0 0 2.",
    "You can see a person who is not able to climb the wall.",
    'The label says "Do not upload images without permission".',
    "Unfortunately for the cyclist, the road is flooded.",
    "However, the image is too dark to see the details of the background.",
)
_OPENERS = (
    "The image shows",
    "This is a photo of",
    "In the picture, there is",
    "The photo depicts",
    "",
)


def _thing(rng: Random) -> str:
    colour = rng.choice(_COLOURS)
    return f"{'an' if colour == 'orange' else 'a'} {colour} {rng.choice(_THINGS)}"


def _scene(rng: Random) -> str:
    return f"{rng.choice(_PEOPLE)} {rng.choice(_DOINGS)} {rng.choice(_PLACES)}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _caption(rng: Random) -> str:
    text = rng.choice((
        f"{_scene(rng)}", f"{_thing(rng)} {rng.choice(_PLACES)}", f"{_scene(rng)} with {_thing(rng)}",
        f"{_thing(rng)}, {_thing(rng)} and {_thing(rng)} {rng.choice(_PLACES)}",
    ))  # fmt: skip
    return rng.choice((text, _capital(text) + "."))


def _paragraph(rng: Random) -> str:
    opener = rng.choice(_OPENERS)
    first = f"{opener} {_scene(rng)}".strip()
    sentences = [f"{_capital(first)}."]
    for _ in range(rng.randint(2, 8)):
        sentences.append(
            rng.choice(
                (
                    f"In the background, {_thing(rng)} can be seen {rng.choice(_PLACES)}.",
                    f"To the left of {_thing(rng)} there is {_thing(rng)}.",
                    f"{_capital(_scene(rng))}.",
                    f"The overall mood is {rng.choice(('calm', 'lively', 'tense', 'festive'))}.",
                    f"There are {rng.randint(2, 12)} {rng.choice(_THINGS)}s in total.",
                    rng.choice(_TRAPS),
                    rng.choice(_TRAPS),
                )
            )
        )
    return " ".join(dict.fromkeys(sentences))


def _trap(rng: Random) -> str:
    return rng.choice((rng.choice(_TRAPS), f"{rng.choice(_TRAPS)} {_capital(_scene(rng))}."))


def _enumeration(rng: Random) -> str:
    thing = rng.choice(_THINGS)
    colours = rng.sample(_COLOURS, rng.randint(3, 10))
    listed = ", ".join(f"a {colour} {thing}" for colour in colours[:-1])
    return f"{_capital(listed)} and a {colours[-1]} {thing} {rng.choice(_PLACES)}."


def _list(rng: Random) -> str:
    mark = rng.choice(("- ", "* ", "{}. ", "{}) "))
    items = [_capital(rng.choice((_thing(rng), _scene(rng)))) for _ in range(rng.randint(3, 25))]
    lines = [mark.format(number) + item for number, item in enumerate(items, 1)]
    return "The image contains the following objects:\n\n" + "\n".join(lines)


def _people(rng: Random) -> str:
    lines = [
        f"The {which} person {'from the left ' if rng.random() < 0.3 else ''}wears {_thing(rng)[2:]} shirt and holds {_thing(rng)}."
        for which in ("first", "second", "third", "fourth", "fifth", "sixth")[: rng.randint(2, 6)]
    ]
    return rng.choice((" ", "\n")).join(lines)


def _json(rng: Random) -> str:
    objects: list[dict[str, Any]] = [
        {
            "label": rng.choice(_THINGS[:6]),
            "color": rng.choice(_COLOURS),
            "box": [rng.randint(0, 640) for _ in range(4)],
            "occluded": rng.random() < 0.2,
        }
        for _ in range(rng.randint(1, 30))
    ]
    value = {
        "caption": _caption(rng),
        "objects": objects,
        "text": None,
        "tags": rng.sample(_THINGS, 6),
    }
    text = json.dumps(rng.choice((value, objects, value["tags"])), indent=rng.choice((None, 2)))
    return rng.choice((text, f"```json\n{text}\n```"))


def _table(rng: Random) -> str:
    rows = [
        f"| {rng.choice(_THINGS)} | {rng.choice(_COLOURS)} | {rng.randint(1, 4)} | {rng.choice(('left', 'right'))} |"
        for _ in range(rng.randint(3, 20))
    ]
    return "\n".join(
        ["| Object | Colour | Count | Side |", "|--------|--------|-------|------|", *rows]
    )


def _tags(rng: Random) -> str:
    return ", ".join(
        rng.sample(
            [*_THINGS, *_COLOURS, "outdoors", "no people", "daylight", "sorry"], rng.randint(4, 20)
        )
    )


def _alt_text(rng: Random) -> str:
    return f"{rng.choice(('Photo', 'Close-up', 'Aerial view', 'Black-and-white photo'))} of {_scene(rng)}, with {_thing(rng)}"


def _screen(rng: Random) -> str:
    times = "\n".join(
        f"{rng.randint(6, 22)}:{rng.randint(10, 59)}  Platform {rng.randint(1, 9)}  {rng.choice(('on time', 'delayed'))}"
        for _ in range(rng.randint(3, 12))
    )
    return f"A departures board that reads:\n{times}"


def _markdown(rng: Random) -> str:
    return f"### Description\n\n**Main subject:** {_scene(rng)}\n\n**Background:** {_thing(rng)}\n\n---\n\n**Text:** {rng.choice(_TRAPS)}"


def _short(rng: Random) -> str:
    return rng.choice(
        (
            "Yes",
            "No",
            "3",
            "dog",
            "A dog.",
            "🐶",
            "none",
            "N/A",
            "a red bus",
            "left",
            "Stop!",
            "100%",
            "犬",
            "Two.",
        )
    )


_ENGLISH = (
    _caption, _caption, _paragraph, _paragraph, _paragraph, _trap, _enumeration, _list, _people,
    _json, _table, _tags, _alt_text, _screen, _markdown, _short,
)  # fmt: skip

_OTHERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "de": (
        ("Ein Mann", "Eine Frau", "Ein kleines Kind", "Eine Gruppe von Touristen", "Ein brauner Hund", "Ein roter Bus"),
        ("wartet am Bahnhof", "steht vor einem Geschäft", "ist am Strand zu sehen", "sitzt auf einer Bank im Park", "überquert die Straße"),
        ("Im Hintergrund stehen Bäume.", "Auf einem Schild steht „Entschuldigung, wir haben geschlossen“.", "Ein Junge kann nicht aufhören zu lachen.", "Der Himmel ist bewölkt.", "Es sind keine weiteren Menschen zu sehen.", "Das Tor lässt sich leider nicht öffnen."),
    ),
    "fr": (
        ("Un homme", "Une femme", "Un petit enfant", "Un groupe de touristes", "Un chien brun", "Un bus rouge"),
        ("attend à la gare", "se trouve devant un magasin", "est sur la plage", "est assis sur un banc dans le parc", "traverse la rue"),
        ("À l'arrière-plan, on voit des arbres.", "Une pancarte indique « Désolé, nous sommes fermés ».", "Le garçon ne peut pas s'empêcher de rire.", "Le ciel est nuageux.", "On ne voit personne d'autre."),
    ),
    "es": (
        ("Un hombre", "Una mujer", "Un niño pequeño", "Un grupo de turistas", "Un perro marrón", "Un autobús rojo"),
        ("espera en la estación", "está delante de una tienda", "aparece en la playa", "descansa en un banco del parque", "cruza la calle"),
        ("Al fondo se ven árboles.", "Un cartel dice «Lo siento, está cerrado».", "El niño no puede dejar de reír.", "El cielo está nublado.", "No hay más personas en la imagen."),
    ),
    "it": (
        ("Un uomo", "Una donna", "Un bambino", "Un gruppo di turisti", "Un cane marrone", "Un autobus rosso"),
        ("aspetta alla stazione", "si trova davanti a un negozio", "è sulla spiaggia", "riposa su una panchina nel parco", "attraversa la strada"),
        ("Sullo sfondo si vedono degli alberi.", "Un cartello dice «Mi dispiace, siamo chiusi».", "Il bambino non riesce a smettere di ridere.", "Il cielo è nuvoloso."),
    ),
    "pt": (
        ("Um homem", "Uma mulher", "Uma criança pequena", "Um grupo de turistas", "Um cachorro marrom", "Um ônibus vermelho"),
        ("espera na estação", "está em frente a uma loja", "aparece na praia", "descansa em um banco no parque", "atravessa a rua"),
        ("Ao fundo há árvores.", "Uma placa diz “Desculpe, estamos fechados”.", "O menino não consegue parar de rir.", "O céu está nublado."),
    ),
    "ru": (
        ("Мужчина", "Женщина", "Маленький ребёнок", "Группа туристов", "Коричневая собака", "Красный автобус"),
        ("на вокзале", "перед магазином", "на пляже у моря", "рядом со скамейкой в парке", "посреди улицы"),
        ("На заднем плане видны деревья.", "На табличке написано «Извините, мы закрыты».", "Небо затянуто облаками.", "Других людей не видно."),
    ),
    "zh": (
        ("一个男人", "一位女士", "一个小孩", "一群游客", "一只棕色的狗", "一辆红色的公共汽车"),
        ("在火车站", "在商店门前", "在海滩上", "在公园的长椅旁边", "正在过马路"),
        ("背景中可以看到很多树。", "牌子上写着“抱歉，今天休息”。", "天空多云。", "图片中没有其他人。"),
    ),
    "ja": (
        ("男性", "女性", "小さな子供", "観光客のグループ", "茶色い犬", "赤いバス"),
        ("が駅にいます", "が店の前にいます", "が浜辺にいます", "が公園のベンチの横にいます", "が道路を渡っています"),
        ("背景には木々が見えます。", "看板には「申し訳ありませんが、本日は休業です」と書かれています。", "空は曇っています。", "他の人は写っていません。"),
    ),
}  # fmt: skip


def _foreign(rng: Random, language: str) -> str:
    subjects, doings, rest = _OTHERS[language]
    space, stop = ("", "。") if language in ("zh", "ja") else (" ", ".")
    sentences = []
    for subject, doing in zip(
        rng.sample(subjects, rng.randint(1, 5)), rng.sample(doings, 5), strict=False
    ):
        sentences.append(subject + space + doing + stop)
        if rng.random() < 0.6:
            sentences.append(rng.choice(rest))
    return space.join(sentences)


def real_captions() -> list[str]:
    """Return the captions of COCO beside the real photos; none where these are missing."""
    folder = os.environ.get("RAYCAP_REAL_PHOTOS")
    path = Path(folder) / "captions.jsonl" if folder else None
    if path is None or not path.is_file():
        return []
    lines = path.read_text().splitlines()
    return [caption for line in lines for caption in json.loads(line)["captions"]]


def good_answers(num: int, seed: int = 0) -> Iterator[Good]:
    """Yield good answers: all real captions at hand, then synthetic ones."""
    rng = Random(seed)
    real = real_captions()[:num]
    for text in real:
        yield Good(text=text, language="en", prompt=rng.choice(PROMPTS))
    for _ in range(num - len(real)):
        if rng.random() < 0.7:
            text, language = rng.choice(_ENGLISH)(rng), "en"
        else:
            language = rng.choice(sorted(_OTHERS))
            text = _foreign(rng, language)
        yield Good(text=text, language=language, prompt=rng.choice(PROMPTS))
