//! What can be wrong with the framing of a request, as the caller is told and as it is counted: one closed list. Never finds one.

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Flaw {
    /// A line feed without its carriage return.
    BareLineFeed = 1,
    /// A control character within a line.
    ControlCharacter,
    /// Not a method, a target and a version of HTTP/1, with one space between them.
    RequestLine,
    /// A target that is no URI.
    Target,
    /// A target that is too long.
    LongTarget,
    /// A field line that begins with white space.
    FoldedField,
    /// No colon, or a name that is no token; white space before the colon is none.
    FieldName,
    /// More fields than are taken.
    ManyFields,
    /// A larger head than is taken.
    LargeHead,
    /// Not one or more digits.
    ContentLength,
    /// More than one length.
    TwoContentLengths,
    /// Anything but one `chunked`, or any in HTTP/1.0.
    TransferEncoding,
    /// A length beside a transfer encoding.
    LengthAndEncoding,
    /// More than one host.
    TwoHosts,
    /// A chunk's size or end.
    Chunk,
    /// A trailer field that would be another head's.
    Trailer,
    /// More extensions of chunks than are taken.
    Extensions,
}

impl Flaw {
    pub(super) const ALL: [Flaw; 17] = [
        Flaw::BareLineFeed,
        Flaw::ControlCharacter,
        Flaw::RequestLine,
        Flaw::Target,
        Flaw::LongTarget,
        Flaw::FoldedField,
        Flaw::FieldName,
        Flaw::ManyFields,
        Flaw::LargeHead,
        Flaw::ContentLength,
        Flaw::TwoContentLengths,
        Flaw::TransferEncoding,
        Flaw::LengthAndEncoding,
        Flaw::TwoHosts,
        Flaw::Chunk,
        Flaw::Trailer,
        Flaw::Extensions,
    ];

    /// The flaw of this number.
    pub(super) fn of(number: u8) -> Option<Flaw> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// For the metric.
    pub(super) fn slug(self) -> &'static str {
        match self {
            Flaw::BareLineFeed => "bare-line-feed",
            Flaw::ControlCharacter => "control-character",
            Flaw::RequestLine => "request-line",
            Flaw::Target => "target",
            Flaw::LongTarget => "long-target",
            Flaw::FoldedField => "folded-field",
            Flaw::FieldName => "field-name",
            Flaw::ManyFields => "many-fields",
            Flaw::LargeHead => "large-head",
            Flaw::ContentLength => "content-length",
            Flaw::TwoContentLengths => "two-content-lengths",
            Flaw::TransferEncoding => "transfer-encoding",
            Flaw::LengthAndEncoding => "length-and-encoding",
            Flaw::TwoHosts => "two-hosts",
            Flaw::Chunk => "chunk",
            Flaw::Trailer => "trailer",
            Flaw::Extensions => "chunk-extensions",
        }
    }

    /// For the caller.
    pub(super) fn explain(self) -> &'static str {
        match self {
            Flaw::BareLineFeed => "a line ends in LF without CR",
            Flaw::ControlCharacter => "a control character stands within a line",
            Flaw::RequestLine => "the request line is not `METHOD target HTTP/1.1` with single spaces",
            Flaw::Target => "the target is no URI, or has a fragment",
            Flaw::LongTarget => "the target is too long",
            Flaw::FoldedField => "a field line begins with white space",
            Flaw::FieldName => "a field name is empty, is no token, or has white space before its colon",
            Flaw::ManyFields => "a head or trailer may have 100 fields",
            Flaw::LargeHead => "the head is larger than this host takes (client.head_bytes)",
            Flaw::ContentLength => "Content-Length is not a decimal number",
            Flaw::TwoContentLengths => "Content-Length is given more than once",
            Flaw::TransferEncoding => "Transfer-Encoding is not exactly one `chunked`, in HTTP/1.1",
            Flaw::LengthAndEncoding => "Content-Length and Transfer-Encoding are both given",
            Flaw::TwoHosts => "Host is given more than once",
            Flaw::Chunk => "a chunk's size or end is malformed",
            Flaw::Trailer => "a trailer field says what only a head may say",
            Flaw::Extensions => "the extensions of its chunks are too long",
        }
    }
}
