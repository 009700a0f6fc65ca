//! The frames that a daemon and the bootstrap inside an instance exchange.
//!
//! ```text
//! u32 LE  length of what follows (9 ..= limit)
//! u8      kind
//! u64 LE  invocation, a number the daemon chose; 0 where a frame is about none
//! ...     payload, its meaning given by the kind
//! ```
//!
//! Length first, so that a reader skips nothing it does not understand by accident: an unknown
//! kind is an error, because both ends come out of one binary and agree by construction. The
//! decoder takes bytes in any portions, copies no payload, and answers with an error, never a
//! panic, to whatever a broken or hostile instance sends.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest frame anyone may send, length field excluded. Each use sets a smaller limit.
pub(super) const FRAME_MAX_BYTES: usize = 64 * 1024 * 1024;

/// The bytes the length field counts besides the payload.
const COUNTED_BYTES: usize = 9;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the instance: `u32 LE` header length, JSON header, event.
    Invoke = 1,
    /// To the instance: nobody waits for this invocation any longer. No payload.
    Cancel = 2,
    /// To the instance: it may send this many more bytes (`u32 LE`) of a streamed answer.
    Window = 3,
    /// From the instance: it can take invocations. JSON.
    Ready = 16,
    /// From the instance: it will never be ready. JSON error report.
    InitError = 17,
    /// From the instance: the answer, or the end of a streamed one (then empty).
    Result = 18,
    /// From the instance: the function failed. JSON error report.
    Error = 19,
    /// From the instance: `u8` stream (1 or 2), `u64 LE` microseconds since 1970, text.
    Log = 20,
    /// From the instance: the answer follows in chunks. Payload: its content type.
    Stream = 21,
    /// From the instance: the next bytes of a streamed answer.
    Chunk = 22,
}

impl TryFrom<u8> for Kind {
    type Error = FrameError;

    fn try_from(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte {
            1 => Self::Invoke,
            2 => Self::Cancel,
            3 => Self::Window,
            16 => Self::Ready,
            17 => Self::InitError,
            18 => Self::Result,
            19 => Self::Error,
            20 => Self::Log,
            21 => Self::Stream,
            22 => Self::Chunk,
            kind => return Err(FrameError::UnknownKind { kind }),
        })
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// What it says.
    pub(super) kind: Kind,
    /// Which invocation it is about, 0 for none.
    pub(super) invocation: u64,
    /// What follows from the kind.
    pub(super) payload: Bytes,
}

/// Appends the header of a frame whose payload of `payload_bytes` the caller sends after it,
/// so that a large payload need not be copied.
///
/// Fails when the frame would be longer than [`FRAME_MAX_BYTES`]; `into` is then untouched.
pub(super) fn put_header(
    into: &mut BytesMut,
    kind: Kind,
    invocation: u64,
    payload_bytes: usize,
) -> Result<(), FrameError> {
    let counted = payload_bytes.saturating_add(COUNTED_BYTES);
    let length = u32::try_from(counted)
        .ok()
        .filter(|_| counted <= FRAME_MAX_BYTES)
        .ok_or(FrameError::TooLong { length: counted, limit: FRAME_MAX_BYTES })?;
    into.put_u32_le(length);
    into.put_u8(kind as u8);
    into.put_u64_le(invocation);
    Ok(())
}

/// The text of one [`Kind::Log`] frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogRecord {
    /// 1 for stdout, 2 for stderr.
    pub(super) stream: u8,
    /// Microseconds since 1970 by the clock of the instance.
    pub(super) at_us: u64,
    /// One or more lines; may be any bytes.
    pub(super) text: Bytes,
}

impl LogRecord {
    /// Reads the payload of a [`Kind::Log`] frame.
    pub(super) fn decode(mut payload: Bytes) -> Result<Self, FrameError> {
        if payload.len() < 9 {
            return Err(FrameError::BadPayload { kind: Kind::Log, length: payload.len() });
        }
        let stream = payload.get_u8();
        if !matches!(stream, 1 | 2) {
            return Err(FrameError::BadPayload { kind: Kind::Log, length: payload.len() });
        }
        Ok(Self { stream, at_us: payload.get_u64_le(), text: payload })
    }
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field names more than the reader accepts.
    #[error("a frame of {length} bytes is longer than {limit}")]
    TooLong {
        /// What the frame claims.
        length: usize,
        /// What is accepted.
        limit: usize,
    },
    /// The length field names less than every frame has.
    #[error("a frame of {length} bytes is shorter than its own header")]
    TooShort {
        /// What the frame claims.
        length: usize,
    },
    /// The kind is none that is defined.
    #[error("frame kind {kind} is unknown")]
    UnknownKind {
        /// What was read.
        kind: u8,
    },
    /// The payload cannot be what its kind says.
    #[error("a {kind:?} frame with {length} bytes means nothing")]
    BadPayload {
        /// The kind of the frame.
        kind: Kind,
        /// How long its payload is.
        length: usize,
    },
}

/// Turns bytes, in whatever portions they arrive, into frames.
#[derive(Debug)]
pub(super) struct Decoder {
    buffer: BytesMut,
    limit: usize,
}

impl Decoder {
    /// Returns a decoder that refuses frames longer than `limit` bytes (and than
    /// [`FRAME_MAX_BYTES`]), before it has buffered them.
    pub(super) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit: limit.min(FRAME_MAX_BYTES) }
    }

    /// Returns where to append what was read.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Returns the next complete frame, `None` when more bytes are needed.
    ///
    /// After an error nothing that follows can be trusted: the connection must be given up.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((length_field, rest)) = self.buffer.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length_field);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length < COUNTED_BYTES {
            return Err(FrameError::TooShort { length });
        }
        if length > self.limit {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        if rest.len() < length {
            let missing = length - rest.len();
            self.buffer.reserve(missing);
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(4 + length);
        frame.advance(4);
        let kind = Kind::try_from(frame.get_u8())?;
        let invocation = frame.get_u64_le();
        Ok(Some(Frame { kind, invocation, payload: frame.freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let kind = prop::sample::select(vec![
            Kind::Invoke,
            Kind::Cancel,
            Kind::Window,
            Kind::Ready,
            Kind::InitError,
            Kind::Result,
            Kind::Error,
            Kind::Log,
            Kind::Stream,
            Kind::Chunk,
        ]);
        (kind, any::<u64>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(kind, invocation, payload)| Frame {
            kind,
            invocation,
            payload: payload.into(),
        })
    }

    /// Feeds `bytes` cut at the given places and returns the frames and how it ended.
    fn decode(bytes: &[u8], cuts: &[prop::sample::Index], limit: usize) -> (Vec<Frame>, Option<FrameError>) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let mut decoder = Decoder::new(limit);
        let mut frames = Vec::new();
        for pair in places.windows(2) {
            decoder.buffer().extend_from_slice(&bytes[pair[0]..pair[1]]);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_however_it_is_cut(
            frames in prop::collection::vec(any_frame(), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut bytes = BytesMut::new();
            for frame in &frames {
                put_header(&mut bytes, frame.kind, frame.invocation, frame.payload.len())
                    .expect("small frames fit");
                bytes.extend_from_slice(&frame.payload);
            }
            prop_assert_eq!(decode(&bytes, &cuts, FRAME_MAX_BYTES), (frames, None));
        }

        #[test]
        fn any_bytes_end_in_frames_or_an_error_the_same_however_cut(
            bytes in prop::collection::vec(prop_oneof![3 => 0u8..24, 1 => any::<u8>()], 0..200),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            prop_assert_eq!(decode(&bytes, &cuts, 1 << 16), decode(&bytes, &[], 1 << 16));
        }

        #[test]
        fn any_log_payload_is_read_or_refused(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            let length = payload.len();
            let refused = length < 9 || !matches!(payload[0], 1 | 2);
            prop_assert_eq!(LogRecord::decode(payload.into()).is_err(), refused);
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_arrives() {
        let mut decoder = Decoder::new(100);
        decoder.buffer().extend_from_slice(&101u32.to_le_bytes());
        let refused = Err(FrameError::TooLong { length: 101, limit: 100 });
        assert_eq!(decoder.next_frame(), refused);
    }
}
