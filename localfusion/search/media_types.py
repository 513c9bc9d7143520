"""What is said of a media type that is not read: one of a few names, since the type itself is a server's own words."""

_ARCHIVES = frozenset(
    {
        *("application/zip", "application/gzip", "application/x-gzip", "application/x-tar", "application/x-bzip2"),
        *("application/x-7z-compressed", "application/x-rar-compressed", "application/vnd.rar", "application/x-xz"),
    }
)
_KINDS = {"image": "an image", "video": "a video", "audio": "a recording of sound", "font": "a font"}


def kind_of(media_type: str) -> str:
    """A few words that follow "it is"; nothing of the type is in them."""
    if media_type in _ARCHIVES:
        return "an archive"
    return _KINDS.get(media_type.partition("/")[0], "of a type that is not read")
