"""Refusals: answers in which a model says that it will not, or cannot, describe the image.

A refusal speaks in the first person, or of an image that is missing, at the start of a sentence
near the beginning. Captions that quote one (a sign, a screenshot) or tell of one ("a man refuses
to ...") do not. A hedge within a description ("I cannot tell the breed, but ...") is no refusal:
what follows must not be a description.
"""

# ruff: noqa: RUF001  the letters of other scripts are meant

import re

_NUM_SENTENCES = 3
_LEAST_DESCRIPTION = 8  # words

_MAX_EXAMINED = 1_500  # characters: a refusal is at the beginning

_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|„[^“”\n]*[“”]|「[^」\n]*」")
_MARKS = re.compile(r"[*_`#>~]+")
_SPACES = re.compile(r"\s+")
_ENDS = re.compile(r"(?<=[.!?。！？।])\s*(?=\S)|\n+")

_CONTRACTIONS = (
    (re.compile(r"\bi'm\b", re.IGNORECASE), "i am"),
    (re.compile(r"\bi'd\b", re.IGNORECASE), "i would"),
    (re.compile(r"\bcan'?t\b|\bcan not\b", re.IGNORECASE), "cannot"),
    (re.compile(r"\bwon't\b", re.IGNORECASE), "will not"),
    (re.compile(r"n't\b", re.IGNORECASE), " not"),
    (re.compile(r"\b(it|that|there|here)'s\b", re.IGNORECASE), r"\1 is"),
)

_OFTEN = r"(?:(?:really|simply|currently|actually|also|just|directly|physically|personally) )?"
_AI = (
    r"an? (?:[\w-]+ ){0,3}(?:ai|model|assistant|chatbot|program|artificial intelligence)\b"
    r"(?: (?:language )?(?:model|assistant|system)\b)?"
    r"(?: (?:developed|created|trained|made|built|designed) [^,.]{0,60}(?=,))?"
)
_SURELY_AI = (
    r"an? (?:[\w-]+ ){0,4}(?:ai|language model|artificial intelligence|chatbot)\b[^.]{0,120}"
    r"(?:cannot|unable|not able|not capable|not possible| not have)"
)
_SORRY = (
    r"(?:(?:i am |we are )?(?:(?:so|very|really|truly|deeply) )?(?:sorry|afraid)|"
    r"i (?:sincerely )?apologi[sz]e(?: for [^,.]{0,60})?|i regret(?: to (?:say|inform you))?|"
    r"(?:my |our )?(?:sincere )?apologies|pardon me)"
)
_LEAD = (
    rf"(?:(?:oh|oops|hmm+|well|no|okay|ok|hi|hello|hey|thank(?:s| you)[^,.!]{{0,40}}|unfortunately|"
    rf"regrettably|sadly|however|actually|currently|at this time|{_SORRY}|as {_AI}|i am (?:just |"
    r"only |merely |programmed to be )?" + _AI + r"(?=,| and| so))[\s,.!:;—–-]*"
    r"(?:(?:but|and|so|that)\b[\s,]*)?)*+"
)
_IMAGE = (
    r"(?:images?|pictures?|photos?|photographs?|attachments?|files?|visuals?|screenshots?|visual "
    r"content)"
)
_CANNOT = (
    rf"(?:i|we) {_OFTEN}(?:cannot|could not|would not|will not|will not be able to|will be unable "
    rf"to|am {_OFTEN}(?:unable to|not (?:able|allowed|permitted|designed|programmed|authorized|"
    rf"equipped|going) to|(?:incapable|not capable) of|not comfortable(?: with)?|uncomfortable"
    rf"(?: with)?)|do not {_OFTEN}(?:have the (?:ability|capability|capacity|means|permission) to|"
    r"feel comfortable(?: with)?)|(?:must|have to|need to|will have to)? ?(?:respectfully |"
    r"politely )?(?:decline|refuse) to|would rather not)"
)
_ACT = (
    r"(?:assist|help|comply|fulfil|do (?:that|this|so|it)|provid|describ|generat|creat|caption|"
    r"writ|produc|complet|continu|engag|discuss|respond|answer|support|accommodat|proceed|process|"
    r"analy[sz]|interpret|access|open|display|view|offer|participat|giv|carry out|satisfy|see or|"
    r"look at|load|render|comment|speculat|share|depict|endorse|with (?:this|that))\w*"
)
_PEOPLE = (
    r"(?:(?:the|any|these|those|this|real|specific) ){0,2}(?:person|people|individual|man|woman|"
    r"identit|face)"
)
_SEEMS = r"(?:it (?:seems|looks|appears) (?:(?:like|as if|as though|that) )?)"
_ASK_FOR_IT = r"(?:re-?)?(?:upload|provide|attach|share|send)(?:ing)?\b"
_RECEIVED = r"(?:attached|provided|uploaded|included|shared|given|available|visible)"

_ENGLISH = (
    rf"{_CANNOT} {_OFTEN}{_ACT}",
    rf"{_CANNOT} {_OFTEN}(?:see|find|detect|perceive) (?:[\w']+ ){{0,2}}{_IMAGE}",
    rf"{_CANNOT} {_OFTEN}(?:identify|recogni[sz]e|name)\w* (?:or \w+ )?{_PEOPLE}",
    rf"(?:i|we) (?:currently )?do not {_OFTEN}(?:see|have|find|detect) (?:direct )?(?:access to )?"
    rf"(?:the|an?|any|your|that|this|such)?[^.,]{{0,20}}{_IMAGE}",
    r"i (?:must|have to|need to|will have to) (?:respectfully |politely )?(?:decline|refuse)",
    rf"i need (?:to see )?(?:the|an|your) (?:actual )?{_IMAGE}",
    r"(?:it|this|that|doing so)(?: request)? (?:is|goes|would be|would go) against (?:my|our|the)",
    rf"(?:this|the|that|your) (?:request|content|prompt|{_IMAGE})[^.]{{0,40}}(?:violates?|in "
    r"violation of|goes against|is against|conflicts with|breaches)\b"
    r"[^.]{0,30}(?:polic|guideline|terms|rules)",
    r"my (?:programming|guidelines|training|instructions|policies|policy|design) (?:do(?:es)? not|"
    r"prevents?|prohibits?|forbids?)",
    rf"{_SEEMS}?there (?:is|was) (?:no|not an?) (?:\w+ )?{_IMAGE} (?:{_RECEIVED}|here|for me|in "
    r"(?:your|this|the) (?:message|conversation|chat|prompt|request))",
    rf"{_SEEMS}(?:no|you|the|your|an)\b[^.]{{0,40}}(?:did not|forgot|was not|has not|have not|"
    rf"missing|no) ?[^.]{{0,20}}(?:attach|upload|provide|include|share|come through|load|"
    rf"{_RECEIVED})",
    rf"{_SEEMS}?no {_IMAGE} (?:was|is|has been|were) {_RECEIVED}",
    rf"please (?:try )?{_ASK_FOR_IT} (?:me )?(?:the|an|your|a|it)\b[^.]{{0,30}}(?:{_IMAGE}|again)",
    rf"(?:could|can|would) you (?:please )?(?:try )?{_ASK_FOR_IT}",
    rf"(?:as|i am(?: just| only| merely| programmed to be)?) {_SURELY_AI}",
)
_STRONG = re.compile("|".join(_ENGLISH), re.IGNORECASE)
_LED = re.compile(f"{_LEAD}(?:{'|'.join(_ENGLISH)})", re.IGNORECASE)

# In other languages refusals are shorter to describe: an apology or "as an AI", then "I cannot".
_FOREIGN_FORMS = (
    # German
    r"(?:es )?tut mir (?:sehr )?leid\b.{0,40}\b(?:kann|darf|konnte|möchte)\b",
    r"(?:entschuldigung|entschuldige|verzeihung|leider)\b.{0,30}\b(?:kann|darf|konnte) ich",
    r"als (?:\w+[- ]){0,2}(?:ki|sprachmodell|ki-\w+)\b.{0,20}(?:kann|bin|habe|darf) ich",
    r"(?:dabei|damit|hierbei) (?:kann|darf) ich (?:\w+ ){0,3}nicht helfen",
    r"ich (?:kann|darf) (?:\w+ ){0,6}(?:nicht|keine) (?:\w+ ){0,3}(?:sehen|beschreiben|"
    r"helfen|anzeigen|verarbeiten|erstellen|identifizieren|ansehen|unterstützen)",
    r"ich bin (?:leider )?nicht in der lage",
    # French
    r"(?:je suis |je m'excuse|)(?:vraiment |)(?:désolée?|navrée?)\b.{0,20}\bje ne (?:peux|suis)",
    r"je ne (?:peux|pourrai) (?:malheureusement |donc )?pas (?:vous |t'|te )?(?:aider|décrire|voir|"
    r"fournir|répondre|identifier|analyser|traiter|générer|accéder|visualiser|satisfaire)",
    r"je ne suis pas (?:en mesure|capable|autorisée?)",
    r"en tant qu[e'] ?(?:\w+ ){0,3}(?:ia|intelligence artificielle|modèle|assistant)\b",
    r"malheureusement,? je ne (?:peux|suis)",
    # Spanish
    r"(?:lo siento|lo lamento|perdón|disculpa|disculpe)\b.{0,20}\bno (?:puedo|me es posible|soy)",
    r"(?:lamentablemente|desafortunadamente),? no (?:puedo|soy)",
    r"no (?:puedo|soy capaz de|me es posible|estoy autorizad[oa] (?:a|para)) (?:ayudar|describir|"
    r"ver|proporcionar|cumplir|identificar|analizar|procesar|generar|acceder|visualizar)",
    r"como (?:un |una )?(?:modelo de (?:lenguaje|ia)|ia|inteligencia artificial|asistente)\b"
    r".{0,60}\bno\b",
    # Italian
    r"(?:mi dispiace|spiacente|mi scuso)\b.{0,20}\bnon (?:posso|sono)",
    r"non (?:posso|sono in grado di|mi è possibile) (?:aiutart|descriver|veder|forni|identific|"
    r"analizz|soddisf|elabor|visualizz|generar)",
    r"(?:in quanto|come) (?:un |un')?(?:modello|ia\b|intelligenza|assistente).{0,40}\bnon\b",
    r"purtroppo,? non (?:posso|sono)",
    # Portuguese
    r"(?:desculpe|desculpa|sinto muito|lamento|me desculpe)\b.{0,20}\bnão (?:posso|consigo|é "
    r"possível)",
    r"(?:infelizmente),? (?:eu )?não (?:posso|consigo)",
    r"(?:eu )?não (?:posso|consigo|sou capaz de) (?:ajudar|descrever|ver|fornecer|identificar|"
    r"analisar|processar|gerar|acessar|visualizar|atender)",
    r"como (?:um |uma )?(?:modelo de linguagem|ia|inteligência artificial|assistente)\b"
    r".{0,60}\bnão\b",
    # Dutch
    r"(?:het spijt me|sorry|helaas|excuses)\b.{0,20}\b(?:ik kan|kan ik)\b.{0,40}\b(?:niet|geen)\b",
    r"als (?:een )?(?:ai|taalmodel|ai-\w+)\b.{0,20}\bkan ik\b",
    r"ik kan (?:\w+ ){0,5}(?:niet|geen) (?:\w+ ){0,3}(?:helpen|beschrijven|zien|bekijken)",
    # Swedish, Danish, Norwegian
    r"(?:tyvärr|jag är ledsen|ledsen|förlåt|beklager|desværre|undskyld|jeg beklager)\b.{0,20}"
    r"\b(?:kan jag|jag kan|kan jeg|jeg kan)\b.{0,30}\b(?:inte|ikke)\b",
    # Polish, Czech
    r"(?:przepraszam|przykro mi|niestety)\b.{0,20}\bnie (?:mogę|jestem w stanie)",
    r"nie mogę (?:\w+ ){0,3}(?:pomóc|opisać|zobaczyć)",
    r"jako (?:model językowy|sztuczna inteligencja|ai)\b.{0,30}\bnie\b",
    r"(?:omlouvám se|promiňte|je mi líto|bohužel)\b.{0,20}\b(?:nemohu|nemůžu)",
    # Russian, Ukrainian
    r"(?:извините|простите|к сожалению|прошу прощения|мне жаль|вибачте|на жаль|перепрошую)\b"
    r".{0,30}\bне (?:могу|можу|в состоянии|имею)",
    r"(?:я )?не (?:могу|можу|имею возможности) (?:вам )?(?:помочь|описать|видеть|увидеть|"
    r"просматривать|допомогти|описати|обработать|выполнить)",
    r"(?:как|будучи|як) (?:\w+ ){0,2}(?:языков|ии\b|искусственн|мовна|модель|ші\b).{0,40}\bне\b",
    # Turkish
    r"(?:üzgünüm|özür dilerim|maalesef|kusura bakmayın)\b.{0,60}(?:amam|emem|amıyorum|emiyorum|"
    r"değilim|mümkün değil)\b",
    r"bir (?:yapay zeka|dil modeli).{0,60}(?:amam|emem|amıyorum|emiyorum)\b",
    # Chinese
    r"(?:非常|很|十分|实在|實在)?(?:抱歉|对不起|對不起|不好意思|遗憾|遺憾).{0,8}(?:我|这|這|该)?.{0,8}"
    r"(?:无法|無法|不能|没法|沒法|没办法|不会|不可以)",
    r"(?:作为|作為|身为)(?:一个|一個|一名)?.{0,10}(?:ai|人工智能|人工智慧|语言模型|語言模型|助手).{0,12}"
    r"(?:无法|無法|不能|没有|沒有)",
    r"我(?:无法|無法|不能|没法)(?:协助|協助|帮助|幫助|描述|查看|看到|识别|識別|提供|处理|處理|回答|满足)",
    # Japanese
    r"(?:大変|誠に)?(?:申し訳(?:ありません|ございません|ない)|すみません|ごめんなさい|恐れ入ります|残念ながら)"
    r".{0,40}(?:できません|できかねます|お応え|いたしかねます|ありません|出来ません|難しい)",
    r"(?:ai|言語モデル|人工知能).{0,10}(?:として|である|なので|ですので).{0,30}(?:できません|できない|ありません)",
    # Korean
    r"(?:죄송|미안|유감|안타깝).{0,40}(?:없습니다|없어요|못합니다|어렵습니다|않습니다|없네요)",
    r"(?:ai|인공지능|언어 모델).{0,10}(?:로서|이므로|이기 때문에|으로서).{0,40}(?:없습니다|없어요)",
    # Arabic
    r"(?:عذر\w*|آسف\w*|أعتذر|للأسف|نأسف|المعذرة)\W.{0,20}(?:لا|لست|لن)\W{0,2}(?:\w+ )?"
    r"(?:يمكنني|أستطيع|استطيع|أتمكن|قادر)",
    r"لا (?:يمكنني|أستطيع) (?:مساعد|المساعد|وصف|رؤية)",
    # Hindi
    r"(?:क्षमा करें|माफ़ करें|माफ करें|मुझे खेद है|मुझे माफ़ करें|दुर्भाग्य से).{0,60}"
    r"(?:नहीं कर सकत|असमर्थ|नहीं दे सकत|नहीं देख सकत)",
    # Indonesian, Malay, Vietnamese, Thai
    r"(?:maaf|mohon maaf|sayangnya)\b.{0,20}\b(?:saya )?(?:tidak|tak) (?:bisa|dapat|boleh|mampu)",
    r"(?:xin lỗi|rất tiếc|thành thật xin lỗi)\b.{0,20}\b(?:tôi )?không thể",
    r"ขออภัย.{0,20}(?:ไม่สามารถ|ไม่ได้)",
)  # fmt: skip
_FOREIGN = re.compile("|".join(_FOREIGN_FORMS), re.IGNORECASE)

_BOILERPLATE = re.compile(
    r"\b(?:you|your|i|me|my|privacy|guidelines|policy|policies|respect|ethical|harmful|assist|help|"
    r"request|upload|identity|consent|sensitive|inappropriate|ai)\b",
    re.IGNORECASE,
)
_PARTIAL = re.compile(
    r"\b(?:identif|recogni[sz]|name|tell|determin|read|make out|verif|specif)\w*", re.IGNORECASE
)
"""What a model may leave out of a description."""
_DESCRIPTIONS = (
    rf"\b(?:the|this) (?:{_IMAGE}|scene) (?:\w+ )?(?:shows|features|depicts|contains|captures|"
    r"displays|appears to|is of)\b",
    rf"\bin (?:the|this) {_IMAGE},? (?:there|an?|the|two|three|we|i see)\b",
    r"\bi can (?:\w+ )?(?:see|tell you|describe|say|note|provide|offer)\b[^.:]{0,60}"
    r"(?: that |:\s*)\w",
    r"\bhere is\b[^.:]{0,60}:\s*\w",
    r"\bit (?:shows|depicts|features) (?:an?|the|two)\b",
    r"(?:das bild|foto) zeigt|auf dem (?:bild|foto) (?:ist|sind|sieht)",
    r"l'image montre|sur (?:l'image|la photo)",
    r"la imagen muestra|en la (?:imagen|foto)",
    r"l'immagine mostra|nell'immagine",
    r"a imagem mostra|na imagem",
    r"afbeelding toont|op de (?:foto|afbeelding)",
    r"на (?:изображении|фото\w*|картинке)",
    r"图片(?:显示|展示|中有)|画像には|이미지에는",
)
_DESCRIBES = re.compile("|".join(_DESCRIPTIONS), re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")


def is_refusal(answer: str) -> bool:
    """Whether an answer refuses to describe the image, in English or another common language."""
    text = _plain(answer[:_MAX_EXAMINED])
    sentences = [sentence for sentence in _ENDS.split(text) if _WORD.search(sentence)]
    for number, sentence in enumerate(sentences[:_NUM_SENTENCES]):
        following = sentences[number + 1 :]
        is_foreign = _FOREIGN.match(" ".join([sentence, *following[:1]])) is not None
        if is_foreign or _STRONG.match(sentence) or _LED.match(sentence):
            return not _describes(sentence, [*sentences[:number], *following])
    return False


def _plain(text: str) -> str:
    """Return a text with plain quotes and spaces, without quotations and marks of Markdown."""
    text = text.replace("’", "'").replace("‘", "'").strip()
    text = _MARKS.sub("", text).strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    lines = [_SPACES.sub(" ", line).strip() for line in text.split("\n")]
    text = _QUOTED.sub('""', "\n".join(lines))
    for form, full in _CONTRACTIONS:
        text = form.sub(full, text)
    return text


def _describes(refusal: str, others: list[str]) -> bool:
    """Whether an answer with a sentence that refuses is a description nevertheless."""
    if _DESCRIBES.search(" ".join([refusal, *others])):
        return True
    if _PARTIAL.search(refusal) is None:
        return False  # what follows are reasons and advice
    described = [sentence for sentence in others if not _BOILERPLATE.search(sentence)]
    return sum(len(_WORD.findall(sentence)) for sentence in described) >= _LEAST_DESCRIPTION
