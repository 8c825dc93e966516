# ruff: noqa: RUF001  the letters of other scripts are meant

import pytest

from raycap.answers.refusals import is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help you with that request.",
        "I’m sorry, I can’t provide that description.",
        "Sorry — I can't comply with this.",
        "I cannot help with identifying this man. It's important to respect people's privacy.",
        "I'm unable to assist with this image. If you have other questions, feel free to ask!",
        "Unfortunately, I'm not able to see pictures. Could you tell me what it shows?",
        "As an AI developed by a company, I can't look at photographs.",
        "As a text-based assistant, I don't have access to images.",
        "I do not have the ability to process visual content.",
        "I won't be able to write this caption.",
        "I have to respectfully decline. The photo may show a minor.",
        "It looks like you forgot to attach the photo. Please share it again.",
        "No image was uploaded.",
        "I'm really sorry, but I can't assist with that request. Harming others is illegal and "
        "morally reprehensible. It poses a significant threat to public safety.",
        "I'm unable to analyze or identify personal traits from the image provided.",
        "I'm sorry, but I can't help with identifying or describing the person in the photo.",
        "I am afraid I cannot comply with that request. Great care is needed with such pictures.",
        "I must respectfully decline your request.",
        "That request seems to be in violation of my safety guidelines.",
        "죄송합니다. 그 사진은 설명해 드릴 수 없습니다.",
        "That goes against my guidelines.",
        '"I cannot generate a caption for this."',
        "**I'm sorry**, but I can't describe it.",
        "Hello! I don't see any picture in our chat.",
        "Ich kann dir bei diesem Bild leider nicht helfen.",
        "Je suis désolée, je ne peux pas répondre à cette demande.",
        "Lo lamento, pero no puedo procesar esta foto.",
        "抱歉，我不能提供帮助。",
        "申し訳ありませんが、お手伝いできません。",
        "죄송합니다만, 도와드릴 수 없습니다.",
    ],
)
def test_refusals_are_found(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A man refuses to shake hands with another man.",
        'A sign on a door reads "Sorry, we are closed".',
        "A sorry-looking dog sits in the rain.",
        "A cat that cannot reach the fish on the table.",
        "I cannot tell the breed, but a small brown dog is lying on a red couch.",
        "I can't make out the text on the sign. The image shows a street with parked cars and a "
        "row of shops.",
        "I'm sorry, but I can't identify the people in the image. However, the image shows two men "
        "in dark suits shaking hands in front of a flag.",
        "I can't name the person, but I can describe the scene: a woman in a blue dress stands on "
        "a stage with a microphone.",
        "\"I'm sorry, but I can't help with that\" is written on a laptop screen.",
        'A screenshot of a chat: "As an AI language model, I cannot browse the web."',
        "I can see a dog on a couch.",
        "I'm sorry, but I can't identify the people here. Two men in dark suits shake hands in "
        "front of a flag.",
        "Sorry, I can't help with naming him, but I can tell you that a man in a suit is speaking.",
        "Lo siento, no puedo identificar a nadie, pero la imagen muestra a dos hombres.",
        "It looks like the dog has not eaten yet.",
        "It seems that the photo was not taken recently, since the cars are old.",
        "As a model walks down the runway, the people behind her cannot be seen.",
        "I see two people who can't stop laughing.",
        "Please keep off the grass: a sign in a park",
        "A robot assistant that cannot climb the stairs, next to an engineer.",
        "The store can't be seen clearly because of the fog.",
        "Ein Hund, der nicht ins Haus darf, wartet vor der Tür.",
        "Un hombre no puede abrir la puerta de su coche.",
        "Es tut ihm leid: ein Junge gibt einem Mädchen eine Blume.",
        "一个人在说对不起",
        "Eine Karte mit der Aufschrift „Es tut mir leid, ich kann nicht kommen“.",
    ],
)
def test_captions_are_no_refusals(text: str) -> None:
    assert not is_refusal(text)
