//! The bytes of many ops in few pieces of memory.

use bytes::Bytes;

/// Pieces of memory, each with the bytes of one op or of many.
#[derive(Default)]
pub(crate) struct OpBytes {
    pieces: Vec<Bytes>,
}

/// Where the bytes of an op are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    piece: u32,
    start: u32,
    len: usize,
}

impl OpBytes {
    pub(crate) fn get(&self, span: Span) -> &[u8] {
        self.pieces.get(span.piece as usize).and_then(|piece| piece.get(span.range())).unwrap_or_default()
    }

    /// The bytes without a copy of them.
    pub(crate) fn share(&self, span: Span) -> Bytes {
        match self.pieces.get(span.piece as usize) {
            Some(piece) if span.range().end <= piece.len() => piece.slice(span.range()),
            _ => Bytes::new(),
        }
    }
}

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start.saturating_add(self.len)
    }
}

/// Puts the bytes of ops together. Reference counts for each would cost more than all that is done with them.
#[derive(Default)]
pub(crate) struct Builder {
    pieces: Vec<Bytes>,
    /// The piece that is being filled, which will have this number.
    open: Vec<u8>,
    number: u32,
}

impl Builder {
    /// Ops from this size on are a piece of their own when they come as one.
    const LARGE: usize = 4 << 10;
    const PIECE: usize = 64 << 10;

    /// Adds the bytes of an op.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Span {
        if self.open.capacity() - self.open.len() < bytes.len() {
            // Small graphs in small pieces, large ones in few.
            let size = (self.open.capacity() * 2).clamp(512, Self::PIECE).max(bytes.len());
            self.close();
            self.open = Vec::with_capacity(size);
            self.number = self.push(Bytes::new());
        }
        let start = u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        self.open.extend_from_slice(bytes);
        Span { piece: self.number, start, len: bytes.len() }
    }

    /// Adds the bytes of an op, with their memory if they are many.
    pub(crate) fn keep(&mut self, bytes: Bytes) -> Span {
        if bytes.len() < Self::LARGE {
            return self.copy(&bytes);
        }
        let len = bytes.len();
        Span { piece: self.push(bytes), start: 0, len }
    }

    pub(crate) fn finish(mut self) -> OpBytes {
        self.open.shrink_to_fit();
        self.close();
        OpBytes { pieces: self.pieces }
    }

    fn close(&mut self) {
        if let Some(place) = self.pieces.get_mut(self.number as usize)
            && !self.open.is_empty()
        {
            *place = std::mem::take(&mut self.open).into();
        }
    }

    fn push(&mut self, bytes: Bytes) -> u32 {
        self.pieces.push(bytes);
        u32::try_from(self.pieces.len() - 1).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_of_any_size_in_any_order_come_back() {
        let sizes = [0, 1, 100, 511, 512, 513, 5000, 70_000, 65_536, 3, 200_000, 0, 4096, 4095, 7];
        let ops: Vec<Bytes> =
            (0_u8..).zip(sizes.iter().cycle().take(200)).map(|(at, len)| vec![at; *len].into()).collect();
        let mut builder = Builder::default();
        let spans: Vec<Span> = (0..)
            .zip(&ops)
            .map(|(at, op)| if at % 3 == 0 { builder.keep(op.clone()) } else { builder.copy(op) })
            .collect();
        let kept = builder.finish();
        for (span, op) in spans.into_iter().zip(&ops) {
            assert_eq!(kept.get(span), op);
            assert_eq!(kept.share(span), op);
        }
        assert!(kept.pieces.len() < 150, "{}", kept.pieces.len());
    }
}
