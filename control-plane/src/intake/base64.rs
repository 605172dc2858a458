//! Standard base64 (RFC 4648 §4), as `bytes` fields of Istio's objects are written.

use pillion_policy::Invalid;

/// Decodes `text`; padding may be left out.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, Invalid> {
    let digits = text.trim_end_matches('=');
    let mut decoded = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in digits.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(Invalid::new(format!("{:?} is not a base64 digit", byte as char))),
        };
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            decoded.push(u8::try_from(bits >> held & 0xff).unwrap_or_default());
        }
    }
    if held >= 6 {
        return Err(Invalid::new("the base64 text is cut off"));
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests;
