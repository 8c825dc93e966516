"""Bad answers of language models, planted: templates by fillers, over all codes of the gate.

Written before the rules of `raycap.answers`, and not used to tune them: `test_gate` measures recall
on these. Answers to tune rules on are in the tests of the single modules.
"""

# ruff: noqa: E501, RUF001  phrases as they are, the letters of other scripts are meant

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from raycap.errors import ErrorCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A bad answer, and the code that it deserves."""

    text: str
    code: ErrorCode
    finish: str | None = "stop"
    prompt: str = "Describe this image in one sentence."


_SUBJECTS = (
    "a brown dog", "two women in red coats", "an old steam train", "a bowl of ramen", "a surfer",
    "a child with a kite", "three zebras", "a cluttered office desk", "a wedding cake",
    "a flooded street", "a goalkeeper in mid-air", "a row of parked bicycles", "a grey cat",
    "a street musician", "a fishing boat", "a stack of pancakes", "a vintage typewriter",
)  # fmt: skip
_PLACES = (
    "on a green couch", "in front of a brick wall", "near the harbour", "under a cloudy sky",
    "beside a wooden fence", "in a crowded market", "at the edge of a lake", "on a tiled floor",
    "next to a window with white curtains", "along a narrow alley", "in the snow", "at sunset",
)  # fmt: skip
_DETAILS = (
    "The light comes from the left.", "In the background there are several tall buildings.",
    "The colours are muted, mostly grey and beige.", "A small sign can be seen behind it.",
    "The scene looks calm and quiet.", "Shadows fall across the ground.",
    "The photo seems to have been taken with a phone.", "Some leaves are scattered around.",
)  # fmt: skip
PROMPTS = (
    "Describe this image in one sentence.",
    "Write a detailed caption for this photo. Mention colours, objects and the setting.",
    "What is shown here?",
    "You are a careful annotator. Describe what is visible, and do not guess what is not.",
    "Beschreibe das Bild in einem Satz.",
    "Décris cette image en détail, en mentionnant les couleurs et les objets.",
    "Provide an alt text of at most 125 characters for a person who cannot see the image.",
    "Tags: harbour, boat, evening. Use them where they fit, and describe the picture.",
    "List the main objects of the picture, then describe how they are arranged.",
    "请用一句话描述这张图片。",
)


def _sentence(rng: Random) -> str:
    verb = rng.choice(("stands", "is", "can be seen", "appears", "rests"))
    text = f"{rng.choice(_SUBJECTS)} {verb} {rng.choice(_PLACES)}"
    return text[0].upper() + text[1:] + "."


def _paragraph(rng: Random, num_details: int) -> str:
    return " ".join([_sentence(rng), *rng.sample(_DETAILS, num_details)])


_REFUSALS = (
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but I can’t help with identifying {s}.",
    "I'm sorry, I can't assist with that request.",
    "Sorry, I can't help with that.",
    "I'm sorry, but I cannot provide a description of this image.",
    "I am sorry, but I am unable to describe {s} in this picture.",
    "I apologize, but I cannot generate a caption for this content.",
    "I apologize, but I'm not able to identify or describe the people shown here.",
    "My apologies, but I won't be able to describe this image.",
    "I cannot assist with this request.",
    "I can't help with that one. If you have another image, feel free to share it.",
    "I cannot fulfill this request.",
    "I cannot comply with your request, as it may violate content policies.",
    "I can't provide assistance with that. Let me know if there's anything else.",
    "As an AI language model, I don't have the ability to view images.",
    "As an AI, I cannot see or interpret pictures directly.",
    "As an AI assistant, I'm not able to view or analyze images such as {s}.",
    "As a large language model, I am not capable of processing images.",
    "I'm just an AI and can't describe images of this kind.",
    "I'm an AI text-based model, so I can't see the picture that you mention.",
    "Unfortunately, I am not able to describe this image.",
    "Unfortunately, I can't see the image you're referring to.",
    "I'm unable to view or analyze images.",
    "I am unable to process this image.",
    "I'm not able to provide information about the identity of people in images.",
    "I do not feel comfortable describing this image.",
    "I'm not comfortable generating a caption for {s}.",
    "I won't describe this picture because it appears to contain private information.",
    "I must decline to describe this photograph.",
    "I have to decline this request. Is there something else that I can do for you?",
    "It's against my guidelines to describe this type of content.",
    "This request goes against my content policy, so I cannot help.",
    "I don't see any image attached to your message. Could you please upload it?",
    "It seems that no image was provided. Please share the image, and I will describe it.",
    "There is no image attached. Please upload one so that I can write the caption.",
    "It looks like the image didn't come through. Could you try uploading it again?",
    "Please upload the image that you would like me to describe.",
    "Please provide the image so I can help you with a caption.",
    "I don't have access to the image. Please describe it to me instead.",
    "I currently don't have the capability to view images directly.",
    "I'm sorry, but I don't have the ability to see images. Can you describe {s} to me?",
    "I can't view images, but I can help you write a caption if you tell me what is in it.",
    "Sorry, but I am not able to do that.",
    "I'm really sorry, but I can't assist with describing this image.",
    "I am programmed to be a harmless AI assistant and cannot describe this picture.",
    "My programming does not allow me to describe such pictures.",
    "I'm afraid I can't do that.",
    "I'm afraid I cannot describe {s} for you.",
    "I regret that I cannot provide a caption for this image.",
    "Thank you for sharing, but I cannot describe images with identifiable people.",
    "I can not help with this.",
    "I cannot create content that depicts {s} in this way.",
    "I will not provide a caption for this image.",
    "I'd rather not describe this image, since it may be sensitive.",
    "Sorry, this image violates our usage policies and I cannot describe it.",
    "No, I can't describe that.",
    "I need to see the image to describe it. Please attach it.",
    "I'm sorry, but there is no image for me to describe.",
    "I can't identify the person in this image.",
    "I cannot engage with this content.",
    "Oops, I can't see any picture here. Please try again.",
    "I am not able to fulfil your request to describe {s}.",
    "Es tut mir leid, aber ich kann dieses Bild nicht beschreiben.",
    "Entschuldigung, aber dabei kann ich nicht helfen.",
    "Tut mir leid, bei dieser Anfrage kann ich dir nicht helfen.",
    "Als KI-Sprachmodell kann ich keine Bilder sehen.",
    "Ich kann das Bild leider nicht sehen.",
    "Ich bin nicht in der Lage, Bilder anzusehen oder zu beschreiben.",
    "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
    "Désolé, je ne peux pas décrire cette image.",
    "En tant qu'IA, je ne peux pas voir les images.",
    "Je ne suis pas en mesure de décrire cette photo.",
    "Lo siento, pero no puedo ayudar con eso.",
    "Lo siento, no puedo describir esta imagen.",
    "Como modelo de lenguaje, no tengo la capacidad de ver imágenes.",
    "No puedo ver la imagen que mencionas.",
    "Mi dispiace, ma non posso aiutarti con questa richiesta.",
    "Mi dispiace, non sono in grado di descrivere questa immagine.",
    "In quanto modello linguistico, non posso vedere le immagini.",
    "Desculpe, mas não posso ajudar com isso.",
    "Sinto muito, mas não consigo ver a imagem.",
    "Como modelo de linguagem, não posso visualizar imagens.",
    "Het spijt me, maar ik kan hier niet bij helpen.",
    "Sorry, ik kan deze afbeelding niet beschrijven.",
    "Извините, но я не могу помочь с этим запросом.",
    "К сожалению, я не могу описать это изображение.",
    "Как языковая модель, я не могу просматривать изображения.",
    "Przepraszam, ale nie mogę w tym pomóc.",
    "Niestety nie mogę opisać tego obrazu.",
    "Üzgünüm, bu konuda yardımcı olamam.",
    "抱歉，我无法协助处理这个请求。",
    "对不起，我不能描述这张图片。",
    "作为一个人工智能语言模型，我无法查看图片。",
    "很抱歉，我无法识别图片中的人物。",
    "申し訳ありませんが、そのリクエストにはお応えできません。",
    "申し訳ございませんが、この画像を説明することはできません。",
    "AI言語モデルとして、画像を見ることはできません。",
    "죄송하지만 그 요청은 도와드릴 수 없습니다.",
    "죄송합니다. 이 이미지를 설명할 수 없습니다.",
    "عذرًا، لا يمكنني المساعدة في ذلك.",
    "آسف، لا أستطيع وصف هذه الصورة.",
    "क्षमा करें, मैं इसमें आपकी मदद नहीं कर सकता।",
    "Tyvärr kan jag inte hjälpa till med det.",
    "Maaf, saya tidak bisa membantu dengan permintaan itu.",
    "Xin lỗi, tôi không thể giúp với yêu cầu này.",
)


def _refused(rng: Random) -> Planted:
    text = rng.choice(_REFUSALS).format(s=rng.choice(_SUBJECTS))
    if text.isascii():
        text = rng.choice((
            "{}", "{}", "{}", "{} ", "**{}**", "\n\n{}", "{} Is there anything else?",
            "{} Please let me know if you need help with something else.",
        )).format(text)  # fmt: skip
    return Planted(text=text, code=ErrorCode.REFUSED, prompt=rng.choice(PROMPTS))


def _truncated(rng: Random) -> Planted:
    words = _paragraph(rng, rng.randint(1, 5)).split()
    text = " ".join(words[: rng.randint(4, len(words))])
    if rng.random() < 0.3:
        text = text[: -rng.randint(1, 3)]
    return Planted(text=text, code=ErrorCode.TRUNCATED, finish="length", prompt=rng.choice(PROMPTS))


def _empty(rng: Random) -> Planted:
    text = rng.choice((
        "", " ", "\n", "\n\n\n", "\t", ".", "...", "…", '""', "''", "``", "```\n```", "-", "—",
        "**", "()", "[]", "{}", "\u200b", "\ufeff", " . ", "?", "!", "“”", "</s>", "<|im_end|>",
        "<eos>", "<|endoftext|>", "<pad><pad>", "<|eot_id|>", "<end_of_turn>", "。", "*", "#",
    ))  # fmt: skip
    pad = rng.choice(("", " ", "\n", "\r\n", "\t"))
    return Planted(text=pad + text + pad, code=ErrorCode.EMPTY_ANSWER, prompt=rng.choice(PROMPTS))


_THOUGHTS = (
    "The user wants a caption. I see {s} {p}. Let me think about the details.",
    "Okay, so I need to describe {s}.\n\nFirst, look at the background {p}. Wait, is that right?",
    "Let me look at the image: {s} {p}. The prompt asks for one sentence, so I will be brief.",
    "Got it, let's tackle this. There is {s}. Hmm, maybe it is {p}.",
    "We need to produce a caption for {s} {p}. Keep it concise.",
)
_REASONINGS = (
    "<think>{}</think>", "<think>\n{}\n</think>\n\n", "<think>{}", "<think>\n{}\n", "{}</think>",
    "{}\n</think>\n\n", "<thinking>{}</thinking>", "<thinking>\n{}", "<reasoning>{}</reasoning>",
    "<Think>{}</Think>", "\n<think>\n{}\n</think>", "◁think▷{}◁/think▷", "◁think▷{}",
    "<thought>{}</thought>", "<|channel|>analysis<|message|>{}<|end|>",
    "<|channel|>analysis<|message|>{}", "<think>\n{}\n</think>\n\n\n<think>\n{}\n</think>",
    "<|begin_of_thought|>{}<|end_of_thought|>", "[THINK]{}[/THINK]", "<seed:think>{}</seed:think>",
    "<think>{}</think>\n\n```\n```", "<think>{}</think> ...", "<think>{}</think><|im_end|>",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
)  # fmt: skip


def _reasoning(rng: Random) -> Planted:
    thoughts = [
        rng.choice(_THOUGHTS).format(s=rng.choice(_SUBJECTS), p=rng.choice(_PLACES))
        for _ in range(rng.randint(1, 4))
    ]
    form = rng.choice(_REASONINGS)
    text = form.replace("{}", "\n".join(thoughts))
    return Planted(
        text=text,
        code=ErrorCode.REASONING_ONLY,
        finish=rng.choice(("stop", "length", None)),
        prompt=rng.choice(PROMPTS),
    )


def _word_loop(rng: Random) -> str:
    word = rng.choice(("the", "dog", "and", "blue", "very", "surfboard", "汽", "Hund", "ski"))
    return (
        f"{_sentence(rng)[:-1]} with {' '.join([word] * rng.randint(8, 60))}"
        if rng.random() < 0.7
        else " ".join([word] * rng.randint(8, 60))
    )


def _phrase_loop(rng: Random) -> str:
    phrase = rng.choice((
        "and a hat", "with a red shirt and", "on the left side of the", "in front of a building,",
        "a white plate on", "of the image,", "and the dog is", "standing next to a man",
        "a red car, a blue car,", "mit einem Hut und", "avec un chien et", "un perro y", "- a chair\n",
    ))  # fmt: skip
    return f"{_sentence(rng)[:-1]} {' '.join([phrase] * rng.randint(5, 40))}"


def _sentence_loop(rng: Random) -> str:
    looped = " ".join(rng.choice(_DETAILS) for _ in range(rng.randint(1, 3)))
    joint = rng.choice((" ", "\n", "\n\n"))
    return _sentence(rng) + joint + joint.join([looped] * rng.randint(4, 20))


def _numbered_loop(rng: Random) -> str:
    item = rng.choice(_SUBJECTS)
    mark = rng.choice(("{}. ", "{}) ", "Object {}: ", "- Person {}: "))
    lines = [mark.format(n) + item for n in range(1, rng.randint(14, 60))]
    return _sentence(rng) + "\n" + "\n".join(lines)


def _character_loop(rng: Random) -> str:
    unit = rng.choice(
        ("!", "a", "0", "ha", "的", "哈", "了。", "=-", "01", "\u00e3\u0192", "na", "x", "@")
    )
    loop = unit * rng.randint(40, 300)
    return loop if rng.random() < 0.5 else f"{_sentence(rng)} {loop}"


def _cjk_loop(rng: Random) -> str:
    phrase = rng.choice(
        (
            "一只狗在沙发上，",
            "红色的汽车。",
            "男人和女人，",
            "白い犬がいます。",
            "그리고 개가 있다. ",
        )
    )
    return "图片中有" + phrase * rng.randint(5, 30)


def _repeated(rng: Random) -> Planted:
    kinds: tuple[Callable[[Random], str], ...] = (
        _word_loop, _phrase_loop, _sentence_loop, _numbered_loop, _character_loop, _cjk_loop,
    )  # fmt: skip
    text = rng.choice(kinds)(rng)
    if rng.random() < 0.4:
        text = text[: -rng.randint(1, 3)]
    return Planted(
        text=text,
        code=ErrorCode.REPEATED,
        finish=rng.choice(("stop", "length", "length", None)),
        prompt=rng.choice(PROMPTS),
    )


def _copied(rng: Random) -> Planted:
    prompt = rng.choice(PROMPTS)
    text = rng.choice((
        "{}", "{}", "{}\n", "{} ", '"{}"', "USER: {}\nASSISTANT:", "user\n{}\nassistant\n",
        "{}\n\nAnswer:", "**{}**", "{} {}", "{}\n{}\n{}", "Human: {}", "Prompt: {}", "{}\n\n...",
        "[INST] {} [/INST]", "<image>\n{}", "{}\nCaption:",
    )).replace("{}", prompt)  # fmt: skip
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.1:
        text = text.replace(".", "").replace("。", "")
    return Planted(text=text, code=ErrorCode.COPIED_PROMPT, prompt=prompt)


_KINDS = {
    ErrorCode.TRUNCATED: _truncated,
    ErrorCode.REFUSED: _refused,
    ErrorCode.EMPTY_ANSWER: _empty,
    ErrorCode.REASONING_ONLY: _reasoning,
    ErrorCode.REPEATED: _repeated,
    ErrorCode.COPIED_PROMPT: _copied,
}


def planted_answers(num_each: int, seed: int = 0) -> Iterator[Planted]:
    """Yield bad answers, `num_each` of each code that can be told without an asked language."""
    for number, make in enumerate(_KINDS.values()):
        rng = Random(1_000 * seed + number)
        for _ in range(num_each):
            yield make(rng)


_FOREIGN = {
    "en": ("{s} {p}. ", "The picture shows {s} {p}. ", "In this photo, {s} can be seen {p}. "),
    "de": (
        "Auf dem Bild ist ein Hund zu sehen, der auf einem Sofa liegt.",
        "Zwei Frauen in roten Mänteln stehen vor einer Ziegelmauer.",
        "Eine Schüssel mit Suppe steht auf einem gedeckten Tisch.",
        "Ein alter Zug fährt durch eine verschneite Landschaft.",
        "Das Foto zeigt einen belebten Markt mit vielen Menschen.",
    ),
    "fr": (
        "L'image montre un chien allongé sur un canapé vert.",
        "Deux femmes vêtues de manteaux rouges se tiennent devant un mur.",
        "Un bol de soupe est posé sur une table en bois.",
        "Un vieux train traverse un paysage enneigé.",
        "On voit un marché animé avec beaucoup de monde.",
    ),
    "es": (
        "La imagen muestra un perro acostado en un sofá verde.",
        "Dos mujeres con abrigos rojos están delante de una pared.",
        "Un tazón de sopa sobre una mesa de madera junto a una ventana.",
        "Un tren antiguo atraviesa un paisaje nevado.",
        "Se ve un mercado lleno de gente y de puestos de fruta.",
    ),
    "it": (
        "L'immagine mostra un cane sdraiato su un divano verde.",
        "Due donne con cappotti rossi davanti a un muro di mattoni.",
        "Una ciotola di zuppa su un tavolo di legno vicino alla finestra.",
    ),
    "pt": (
        "A imagem mostra um cachorro deitado em um sofá verde.",
        "Duas mulheres com casacos vermelhos estão em frente a uma parede.",
        "Uma tigela de sopa em cima de uma mesa de madeira.",
    ),
    "nl": (
        "De afbeelding toont een hond die op een groene bank ligt.",
        "Twee vrouwen in rode jassen staan voor een bakstenen muur.",
    ),
    "pl": (
        "Na zdjęciu widać psa leżącego na zielonej kanapie.",
        "Dwie kobiety w czerwonych płaszczach stoją przed ceglanym murem.",
    ),
    "ru": (
        "На фотографии собака лежит на зелёном диване.",
        "Две женщины в красных пальто стоят перед кирпичной стеной.",
    ),
    "zh": ("图片中一只棕色的狗躺在绿色的沙发上。", "两个穿着红色外套的女人站在砖墙前面。"),
    "ja": ("茶色い犬が緑色のソファの上に寝ています。", "赤いコートを着た二人の女性が壁の前に立っています。"),
    "ko": ("갈색 개가 초록색 소파 위에 누워 있습니다.", "빨간 코트를 입은 두 여자가 벽 앞에 서 있다."),
    "ar": ("كلب بني مستلق على أريكة خضراء.", "امرأتان ترتديان معاطف حمراء تقفان أمام جدار."),
}  # fmt: skip


def planted_languages(num: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the language asked for, and an answer in another."""
    rng = Random(seed)
    for _ in range(num):
        asked, written = rng.sample(sorted(_FOREIGN), 2)
        chosen = [rng.choice(_FOREIGN[written]) for _ in range(rng.randint(1, 3))]
        filled = [text.format(s=rng.choice(_SUBJECTS), p=rng.choice(_PLACES)) for text in chosen]
        yield asked, " ".join(dict.fromkeys(filled))
