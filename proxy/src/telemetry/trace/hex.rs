//! Ids as trace headers write them: lower-case hexadecimal, in buffers of fixed size.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Writes `bytes` over the front of `out`, two digits each; what finds no room is left out.
pub(super) fn write(bytes: &[u8], out: &mut [u8]) {
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
}

fn digit(nibble: u8) -> u8 {
    DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0')
}

/// Reads exactly `N` bytes. `None` for any other length and for what is no lower-case hexadecimal.
pub(super) fn read<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = (value(high)? << 4) | value(low)?;
    }
    Some(bytes)
}

/// The same for an id, which is not all zero.
pub(super) fn id<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    read(text).filter(|id| *id != [0; N])
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
