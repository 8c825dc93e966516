"""Column names and Arrow schemas of every table that raycap writes or streams.

A captioning run writes two tables in parts. A *manifest part* lists `part_size` images, sorted by
`image_id` in UTF-8 byte order; the *captions part* of the same number has one row for each.
"""

import pyarrow as pa

IMAGE_ID = "image_id"
URI = "uri"
SIZE_BYTES = "size_bytes"
ETAG = "etag"
STATUS = "status"
ERROR_CODE = "error_code"
ERROR_MESSAGE = "error_message"
ATTEMPTS = "attempts"
CAPTION = "caption"
NUM_WORDS = "num_words"
LOGPROB = "logprob"
WIDTH_PX = "width_px"
HEIGHT_PX = "height_px"
MODEL = "model"
ALTERNATIVES = "alternatives"
FINISH = "finish"
NUM_TOKENS = "num_tokens"
NUM_PROMPT_TOKENS = "num_prompt_tokens"
FLAG = "flag"
DIGEST = "digest"
ANSWER = "answer"
OTHER_ANSWERS = "other_answers"
VALUE = "value"
CONTEXT = "context"
CONTEXT_DIGESTS = "context_digests"
EDITED = "edited"
REVIEW = "review"
STALE = "stale"

# Only in the stream between the stages of a run.
PART = "part"
ROW = "row"
NUM_ROWS = "num_rows"
NUM_BYTES = "num_bytes"
PARTIAL = "partial"
PIXELS = "pixels"
INPUT_WIDTH_PX = "input_width_px"
INPUT_HEIGHT_PX = "input_height_px"
PROMPT = "prompt_index"
IS_FIRST = "is_first"
PROMPTS = "prompts"
QUESTIONS = "questions"
KEPT_FIELDS = "kept_fields"

# Only in the stream of a preflight.
IMAGES = "images"
FETCH_S = "fetch_s"
DECODE_S = "decode_s"
PICTURE = "picture"
ROUNDS = "rounds"
CAPTIONER = "captioner"
BATCH_SIZE = "batch_size"
NUM_IMAGES = "num_images"
SECONDS = "seconds"

# Only in indexes of tars.
NAME = "name"
BESIDE = "beside"

NO_ATTEMPTS = 0
"""`attempts` of an image whose caption is that of another one with the same bytes."""

STATUS_OK = "ok"
STATUS_FAILED = "failed"

MANIFEST = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(URI, pa.string(), nullable=False),
        pa.field(SIZE_BYTES, pa.int64()),
        pa.field(ETAG, pa.string()),
        pa.field(CONTEXT, pa.string()),
    ]
)
"""One image to caption. `image_id` is its key relative to the source. `uri` is its address, or
`<dataset>#<image_id>` if a caption dataset contains the image, or that of its span in a tar. `etag`
is the S3 ETag, the size and modification time of a local file, both of its tar with the offset, or
the digest in a caption dataset; null if unknown. `context` is a JSON object with what the source
knows of the image: the values of the fields that the run uses, or `{"*": ...}` with the ETags of
its sidecars by name; null if the run uses no such field."""

_ALTERNATIVES = pa.list_(
    pa.struct([pa.field(CAPTION, pa.string()), pa.field(LOGPROB, pa.float32())])
)

CAPTIONS = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(URI, pa.string(), nullable=False),
        pa.field(ETAG, pa.string()),
        pa.field(STATUS, pa.string(), nullable=False),
        pa.field(ERROR_CODE, pa.string()),
        pa.field(ERROR_MESSAGE, pa.string()),
        pa.field(ATTEMPTS, pa.int32(), nullable=False),
        pa.field(CAPTION, pa.string()),
        pa.field(NUM_WORDS, pa.int32()),
        pa.field(LOGPROB, pa.float32()),
        pa.field(WIDTH_PX, pa.int32()),
        pa.field(HEIGHT_PX, pa.int32()),
        pa.field(MODEL, pa.string()),
        pa.field(ALTERNATIVES, _ALTERNATIVES, nullable=False),
        pa.field(FINISH, pa.string()),
        pa.field(NUM_TOKENS, pa.int32()),
        pa.field(NUM_PROMPT_TOKENS, pa.int32()),
        pa.field(FLAG, pa.string()),
        pa.field(DIGEST, pa.string()),
    ]
)
"""The result of one image: `status` is `ok` with a caption, or `failed` with an error code.

`logprob` is the mean log-probability of the caption's tokens under the model; `width_px` and
`height_px` are the size of the original image, upright; `model` is the model that wrote the caption
(null if none was asked, and in parts of older versions); `alternatives` has the other captions if
`generation.num_captions` is greater than 1.

`attempts` counts the times that the image was read to be captioned; 0 if its caption is that of
another image with the same bytes.

The last columns are null in parts of older versions: `finish` says how the caption ended (`stop`,
or `length` if the model reached `generation.max_new_tokens`; null if unknown), `num_tokens` counts
its tokens without the end token, `num_prompt_tokens` those that the model read (null if unknown);
`flag` is the code of a doubtful answer that was kept; `digest` is the SHA-256 of the image file in
hex, null if it was not read."""

EDIT_MARKS = pa.schema(
    [
        pa.field(EDITED, pa.bool_(), nullable=False),
        pa.field(REVIEW, pa.string()),
        pa.field(STALE, pa.bool_(), nullable=False),
    ]
)
"""What reviewers have made of a caption, beside its row: `edited` if the caption is a reviewer's;
`review` is `approved`, `rejected`, `edited`, or null if nobody has reviewed this caption of this
image; `stale` if somebody has, but the image or the caption of the run has changed since."""

LATER_COLUMNS = (MODEL, FINISH, NUM_TOKENS, NUM_PROMPT_TOKENS, FLAG, DIGEST)
"""Columns that parts of older versions lack; they read as null."""

ANSWER_FIELDS = (
    CAPTION,
    NUM_WORDS,
    LOGPROB,
    FINISH,
    NUM_TOKENS,
    NUM_PROMPT_TOKENS,
    FLAG,
    ERROR_CODE,
    ERROR_MESSAGE,
    ALTERNATIVES,
)
"""Columns that describe the answer to one prompt; the others describe the image."""


KEPT = pa.schema(
    [
        pa.field(ANSWER, pa.string()),
        pa.field(
            OTHER_ANSWERS,
            pa.list_(pa.struct([pa.field(ANSWER, pa.string()), pa.field(LOGPROB, pa.float32())])),
        ),
    ]
)
"""Further columns with `text.keep_answer`: the model's answer as the gate kept it, before any rule
for the text (of a failed row, as the model wrote it); and the same of the alternatives."""


def answer_type(value: pa.DataType | None = None, *, keeps_answer: bool = False) -> pa.DataType:
    """Return the type of a named prompt's column: a struct of ANSWER_FIELDS.

    A row is null until the prompt has been asked about its image. It has an `error_code` if the
    image or the answer failed.

    Args:
        value: The type of the values of a typed answer.
        keeps_answer: Whether it has the fields of KEPT.
    """
    fields = [CAPTIONS.field(name).with_nullable(True) for name in ANSWER_FIELDS]
    if value is not None:
        fields.append(pa.field(VALUE, value))
    return pa.struct([*fields, *(KEPT if keeps_answer else ())])


POSITION = pa.schema(
    [
        pa.field(PART, pa.int64(), nullable=False),
        pa.field(ROW, pa.int32(), nullable=False),
        pa.field(NUM_ROWS, pa.int32(), nullable=False),
        pa.field(PARTIAL, pa.bool_(), nullable=False),
        pa.field(NUM_BYTES, pa.int64(), nullable=False),
    ]
)
"""The position of a streamed row: its part, its row in the part, the number of rows of the part in
this run (so that the committer knows when a part is complete without reading its manifest), whether
the other rows of the part exist already, and the bytes read for the image."""

WORK = pa.schema(
    [
        pa.field(PART, pa.int64(), nullable=False),
        pa.field(PARTIAL, pa.bool_(), nullable=False),
    ]
)
"""Work from the driver: a part to caption completely, or only its rows that have to be retried."""

ANSWERED = pa.schema(
    [
        *POSITION,
        pa.field(PROMPT, pa.int32(), nullable=False),
        pa.field(IS_FIRST, pa.bool_(), nullable=False),
        *CAPTIONS,
        *KEPT,
        pa.field(VALUE, pa.string()),
        pa.field(CONTEXT_DIGESTS, pa.string()),
        pa.field(KEPT_FIELDS, pa.list_(pa.string())),
    ]
)
"""Rows from the captioners to the driver: the answer to one prompt about one image.

`prompt_index` is that of the prompt among those of the run, 0 in a run without named prompts;
`is_first` marks one of the answers about an image, so that images can be counted; the columns of
KEPT are null unless the run keeps answers; `value` is a typed answer as JSON. `num_rows` counts
answers. `context_digests` is a JSON object with a digest for each field of the image's context,
null if the run uses none; `kept_fields` has the values of the fields that the run keeps, in their
order."""

LOADED = pa.schema(
    [
        *ANSWERED,
        pa.field(PROMPTS, pa.list_(pa.int32())),
        pa.field(QUESTIONS, pa.list_(pa.string())),
        pa.field(INPUT_WIDTH_PX, pa.int32()),
        pa.field(INPUT_HEIGHT_PX, pa.int32()),
        pa.field(PIXELS, pa.large_binary()),
    ]
)
"""Rows from the load stage to the captioners, one per image: `pixels` is uint8 `[H, W, 3]` as
bytes, of the size `input_height_px` and `input_width_px`, null for a failed image; the columns of
the answer are still null. `prompts` are the indices of the prompts to ask, ascending; null for the
only prompt of a run. `questions` are their texts for this image; null if they are those of the
settings."""

SAMPLE_WORK = pa.schema(
    [
        pa.field(
            IMAGES,
            pa.list_(pa.struct([*MANIFEST, pa.field(ROW, pa.int32(), nullable=False)])),
            nullable=False,
        )
    ]
)
"""Work from the driver in a preflight: the sampled images that one task loads."""

_MEASURES = [
    pa.field(FETCH_S, pa.float64(), nullable=False),
    pa.field(DECODE_S, pa.float64(), nullable=False),
    pa.field(PICTURE, pa.large_binary()),
]

SAMPLE_LOADED = pa.schema([*LOADED, *_MEASURES])
"""LOADED in a preflight, with the seconds of fetching, the CPU seconds of decoding, and a small
WebP of the image for people to look at, or null."""

SAMPLE_ANSWERED = pa.schema(
    [
        *ANSWERED,
        *_MEASURES,
        pa.field(
            ROUNDS,
            pa.list_(
                pa.struct(
                    [
                        pa.field(CAPTIONER, pa.string(), nullable=False),
                        pa.field(BATCH_SIZE, pa.int32(), nullable=False),
                        pa.field(NUM_IMAGES, pa.int32(), nullable=False),
                        pa.field(SECONDS, pa.float64(), nullable=False),
                    ]
                )
            ),
            nullable=False,
        ),
    ]
)
"""ANSWERED in a preflight. `rounds` lists the batches of a captioner in order, with their images
and seconds; it is in the first of the rows captioned together, and empty in the others."""

CAPTIONS_LIST = "captions"
SOURCE_ID = "source_id"
SPLIT = "split"
BYTES = "bytes"
OFFSET_BYTES = "offset_bytes"
REASON = "reason"
MESSAGE = "message"
FAULT = "fault"

ANNOTATIONS = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(SOURCE_ID, pa.string()),
        pa.field(URI, pa.string()),
        pa.field(OFFSET_BYTES, pa.int64()),
        pa.field(SIZE_BYTES, pa.int64()),
        pa.field(SPLIT, pa.string()),
        pa.field(CAPTION, pa.string()),
        pa.field(FAULT, pa.string()),
    ]
)
"""One caption of one image in an annotation file: ungrouped, in any order.

`image_id` is the image's key relative to its folder; `source_id` the id in the annotation file, if
different (COCO's number); `uri` the image's absolute address, null if the source has no image for
the caption; `offset_bytes` and `size_bytes` its position in that object, for the member of a tar
(in a Parquet file, `offset_bytes` is its row);
`split` as in the source, or null; `caption` unchanged, null for an image without captions; `fault`
is the reason why a caption cannot be read, which is null then."""

REFERENCES = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(SOURCE_ID, pa.string()),
        pa.field(URI, pa.string()),
        pa.field(SPLIT, pa.string()),
        pa.field(CAPTIONS_LIST, pa.list_(pa.string()), nullable=False),
    ]
)
"""All references of one image. Sorted by `image_id`, each id once, at least one caption each."""

DATASET = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(SOURCE_ID, pa.string()),
        pa.field(URI, pa.string()),
        pa.field(BYTES, pa.large_binary()),
        pa.field(CAPTIONS_LIST, pa.list_(pa.string()), nullable=False),
        pa.field(SPLIT, pa.string(), nullable=False),
        pa.field(WIDTH_PX, pa.int32(), nullable=False),
        pa.field(HEIGHT_PX, pa.int32(), nullable=False),
        pa.field(DIGEST, pa.string(), nullable=False),
    ]
)
"""One image of a caption dataset, with all its captions. `bytes` is the image file if images are
embedded, and null if they are referenced by `uri`; `width_px` and `height_px` are the size of the
stored image, upright; `digest` is that of the original file."""

REJECTED = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(URI, pa.string()),
        pa.field(CAPTION, pa.string()),
        pa.field(REASON, pa.string(), nullable=False),
        pa.field(MESSAGE, pa.string()),
    ]
)
"""A rejected image or caption of a caption dataset; `reason` is a RejectReason or an ErrorCode."""

REFERENCE_CAPTIONS = "references"
REFERENCE_TOKENS = "reference_tokens"
BLEU = tuple(f"bleu_{order}" for order in range(1, 5))
ROUGE_L = "rouge_l"
CIDER_D = "cider_d"
METEOR = "meteor"
SPICE = "spice"
CLIP_SCORE = "clip_score"
REF_CLIP_SCORE = "ref_clip_score"
METRICS = (*BLEU, ROUGE_L, CIDER_D, METEOR, SPICE, CLIP_SCORE, REF_CLIP_SCORE)
"""Scores of captions, in the order of tables."""

SCORES = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(URI, pa.string()),
        pa.field(STATUS, pa.string(), nullable=False),
        pa.field(ERROR_CODE, pa.string()),
        pa.field(CAPTION, pa.string()),
        pa.field(LOGPROB, pa.float32()),
        pa.field(REFERENCE_CAPTIONS, pa.list_(pa.string()), nullable=False),
        pa.field(NUM_TOKENS, pa.int32()),
        pa.field(REFERENCE_TOKENS, pa.list_(pa.int32()), nullable=False),
        *(pa.field(name, pa.float64()) for name in METRICS),
    ]
)
"""One image of one system of an evaluation: its caption, the references and the scores.

`status` is `ok`, `failed` (the system has a row without a caption) or `missing` (it has no row);
scores are null if there is nothing to score or the metric was skipped; `num_tokens` is the length
of the caption in tokens, `reference_tokens` are those of the references."""

STATUS_MISSING = "missing"

_PLACE = [pa.field(OFFSET_BYTES, pa.int64()), pa.field(SIZE_BYTES, pa.int64())]

TAR_INDEX = pa.schema(
    [
        pa.field(NAME, pa.string(), nullable=False),
        *_PLACE,
        pa.field(BESIDE, pa.list_(pa.struct([pa.field(NAME, pa.string()), *_PLACE]))),
    ]
)
"""The images of a tar, sorted by name: names of members, and where in the tar their content is;
`beside` are the `.json` and `.txt` members of the same sample."""
