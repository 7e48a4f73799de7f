//! Telling archives from other files.

/// How many bytes of a file [`is_archive`] needs at most.
pub const ARCHIVE_START: u64 = 1024;

/// Whether a file that begins so is an archive that BuildKit unpacks: tar,
/// plain or compressed with gzip, bzip2 or xz.
pub fn is_archive(start: &[u8]) -> bool {
    const COMPRESSED: [&[u8]; 3] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0"];
    COMPRESSED.iter().any(|magic| start.starts_with(magic)) || is_tar(start)
}

/// Whether a tar's first header is here: its checksum is the sum of all its
/// bytes, where the checksum itself counts as blanks.
fn is_tar(start: &[u8]) -> bool {
    let (Some(header), Some(field)) = (start.get(..512), start.get(148..156)) else { return false };
    let digits: String = field
        .iter()
        .skip_while(|b| **b == b' ')
        .take_while(|b| b.is_ascii_digit())
        .map(|b| char::from(*b))
        .collect();
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
    u32::from_str_radix(&digits, 8)
        .is_ok_and(|wanted| wanted == sum(header) - sum(field) + 8 * u32::from(b' '))
}

#[cfg(test)]
mod tests {
    use super::is_archive;

    #[test]
    fn archives_are_told_by_their_first_bytes() {
        for archive in [&b"BZh9"[..], b"\x1f\x8b\x08\0", b"\xfd7zXZ\0"] {
            assert!(is_archive(archive));
        }
        assert!(!is_archive(b"FROM alpine\n"));
        let mut header = [0u8; 512];
        header[..4].copy_from_slice(b"file");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        assert!(is_archive(&header));
        header[0] = b'g';
        assert!(!is_archive(&header));
        assert!(!is_archive(&header[..511]));
    }
}
