"""The one list of sources; the first that matches ``--data`` is taken."""

from pipeline.sources.base import Kind, Source
from pipeline.sources.folder import FolderSource
from pipeline.sources.parquet import ParquetSource
from pipeline.sources.tar import TarSource

SOURCES: dict[Kind, Source] = {
    "webdataset": TarSource(),
    "parquet": ParquetSource(),
    "folder": FolderSource(),  # last: it takes any directory
}
