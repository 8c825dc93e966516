"""Column names and Arrow schemas of every table raycap writes or streams.

Two tables live on disk. A *manifest part* lists images, `part_size` of them, sorted by
`image_id` in UTF-8 byte order; a *captions part* of the same number answers it row for row.
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

# Only in the stream, between the stages of one run.
PART = "part"
ROW = "row"
NUM_ROWS = "num_rows"
NUM_BYTES = "num_bytes"
PARTIAL = "partial"
PIXELS = "pixels"

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

STATUS_OK = "ok"
STATUS_FAILED = "failed"

MANIFEST = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(URI, pa.string(), nullable=False),
        pa.field(SIZE_BYTES, pa.int64()),
        pa.field(ETAG, pa.string()),
    ]
)
"""One image to caption. `image_id` is its key relative to the source; `etag` the S3 ETag, or size
and modification time of a local file, or its digest in a caption dataset, or null where listing
does not tell; `uri` its address, or `<dataset>#<image_id>` where the dataset holds the image."""

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
        pa.field(
            ALTERNATIVES,
            pa.list_(pa.struct([pa.field(CAPTION, pa.string()), pa.field(LOGPROB, pa.float32())])),
            nullable=False,
        ),
    ]
)
"""One answered image: `status` is `ok` with a caption, or `failed` with an error code.

`logprob` is the mean log-probability of the caption's tokens under the model; `width_px` and
`height_px` are the image's own size, upright; `model` names the model that wrote the caption (null
where there is no caption, and in parts of older versions); `alternatives` holds the other captions
where `generation.num_captions` asks for more than one."""

POSITION = pa.schema(
    [
        pa.field(PART, pa.int64(), nullable=False),
        pa.field(ROW, pa.int32(), nullable=False),
        pa.field(NUM_ROWS, pa.int32(), nullable=False),
        pa.field(PARTIAL, pa.bool_(), nullable=False),
        pa.field(NUM_BYTES, pa.int64(), nullable=False),
    ]
)
"""Where a streamed row belongs: its part, its row there, how many rows of that part this run
answers (so that the committer knows a part is whole without reading its manifest), whether the
part's other rows stand already, and how many bytes were read for the image."""

WORK = pa.schema(
    [
        pa.field(PART, pa.int64(), nullable=False),
        pa.field(PARTIAL, pa.bool_(), nullable=False),
    ]
)
"""What the driver hands out: a part to answer wholly, or those rows of it that need it again."""

ANSWERED = pa.schema([*POSITION, *CAPTIONS])
"""What the captioners stream back to the driver."""

LOADED = pa.schema([*ANSWERED, pa.field(PIXELS, pa.large_binary())])
"""What the load stage streams to the captioners: the row so far, and `pixels`, uint8 `[H, W, 3]`
as bytes, null for a failed image. `caption`, `num_words` and `logprob` are still null."""

SAMPLE_WORK = pa.schema(
    [
        pa.field(
            IMAGES,
            pa.list_(pa.struct([*MANIFEST, pa.field(ROW, pa.int32(), nullable=False)])),
            nullable=False,
        )
    ]
)
"""What the driver hands out in a preflight: the sampled images that one task loads."""

_MEASURES = [
    pa.field(FETCH_S, pa.float64(), nullable=False),
    pa.field(DECODE_S, pa.float64(), nullable=False),
    pa.field(PICTURE, pa.large_binary()),
]

SAMPLE_LOADED = pa.schema([*LOADED, *_MEASURES])
"""LOADED in a preflight: with the seconds that fetching took, the seconds of a core that decoding
took, and a small WebP of the image to look at, or null."""

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
"""ANSWERED in a preflight. `rounds` tells how long a captioner took for which images, in order; it
stands in the first row of those that it answered together, and is empty in the others."""

CAPTIONS_LIST = "captions"
SOURCE_ID = "source_id"
SPLIT = "split"
BYTES = "bytes"
OFFSET_BYTES = "offset_bytes"
DIGEST = "digest"
REASON = "reason"
MESSAGE = "message"

ANNOTATIONS = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(SOURCE_ID, pa.string()),
        pa.field(URI, pa.string()),
        pa.field(OFFSET_BYTES, pa.int64()),
        pa.field(SIZE_BYTES, pa.int64()),
        pa.field(SPLIT, pa.string()),
        pa.field(CAPTION, pa.string()),
    ]
)
"""One caption of one image, as an annotation file gives it: ungrouped, in any order.

`image_id` is the image's key relative to its folder; `source_id` what the annotation file itself
calls it, where that is something else (the number of COCO); `uri` the image's full address, null
where the source has no image for the caption; `offset_bytes` and `size_bytes` where it lies within
that object, for the member of a tar; `split` as the source says, or null; `caption` as it stands,
null for an image without any."""

REFERENCES = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(SOURCE_ID, pa.string()),
        pa.field(URI, pa.string()),
        pa.field(SPLIT, pa.string()),
        pa.field(CAPTIONS_LIST, pa.list_(pa.string()), nullable=False),
    ]
)
"""All captions that people wrote for one image. Sorted by `image_id`, no id twice, none empty."""

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
"""One image of a caption dataset, with all its captions. `bytes` holds the image file where images
are embedded, and is null where they are referenced by `uri`; `width_px` and `height_px` are its
size as it would be trained on, upright; `digest` is that of the original file's bytes."""

REJECTED = pa.schema(
    [
        pa.field(IMAGE_ID, pa.string(), nullable=False),
        pa.field(URI, pa.string()),
        pa.field(CAPTION, pa.string()),
        pa.field(REASON, pa.string(), nullable=False),
        pa.field(MESSAGE, pa.string()),
    ]
)
"""What a caption dataset left out, and why; `reason` is a RejectReason or an ErrorCode."""

REFERENCE_CAPTIONS = "references"
NUM_TOKENS = "num_tokens"
REFERENCE_TOKENS = "reference_tokens"
BLEU = tuple(f"bleu_{order}" for order in range(1, 5))
ROUGE_L = "rouge_l"
CIDER_D = "cider_d"
METEOR = "meteor"
SPICE = "spice"
CLIP_SCORE = "clip_score"
REF_CLIP_SCORE = "ref_clip_score"

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
        *(pa.field(name, pa.float64()) for name in BLEU),
        pa.field(ROUGE_L, pa.float64()),
        pa.field(CIDER_D, pa.float64()),
        pa.field(METEOR, pa.float64()),
        pa.field(SPICE, pa.float64()),
        pa.field(CLIP_SCORE, pa.float64()),
        pa.field(REF_CLIP_SCORE, pa.float64()),
    ]
)
"""One image of one system of an evaluation: its caption, the references and the scores.

`status` is `ok`, `failed` (the system has a row and no caption) or `missing` (it has no row);
scores are null where there is nothing to score or the metric was skipped; `reference_tokens` are
the references' lengths in tokens, as `num_tokens` is the caption's."""

STATUS_MISSING = "missing"
