//! Parts of a line, appended without the formatting machinery: lines are made while requests wait.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::Version;

/// A whole number.
pub(super) fn number(number: impl itoa::Integer, line: &mut Vec<u8>) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A time as logs give it: milliseconds, with as many of three decimals as it takes.
pub(super) fn millis(time: Duration, line: &mut Vec<u8>) {
    let micros = (time.as_nanos() + 500) / 1000;
    number(u64::try_from(micros / 1000).unwrap_or(u64::MAX), line);
    let decimals = micros % 1000;
    let digits = [decimals / 100, decimals / 10 % 10, decimals % 10];
    if let Some(last) = digits.iter().rposition(|digit| *digit != 0) {
        line.push(b'.');
        line.extend(
            digits.iter().take(last + 1).map(|digit| b'0' + u8::try_from(*digit).unwrap_or_default()),
        );
    }
}

/// An IP address.
pub(super) fn ip(ip: IpAddr, line: &mut Vec<u8>) {
    let IpAddr::V4(ip) = ip else {
        // Writing to memory cannot fail.
        let _infallible = write!(line, "{ip}");
        return;
    };
    for (index, octet) in ip.octets().into_iter().enumerate() {
        if index > 0 {
            line.push(b'.');
        }
        number(octet, line);
    }
}

/// An address with its port.
pub(super) fn address(address: SocketAddr, line: &mut Vec<u8>) {
    let SocketAddr::V4(v4) = address else {
        // Writing to memory cannot fail.
        let _infallible = write!(line, "{address}");
        return;
    };
    ip(IpAddr::V4(*v4.ip()), line);
    line.push(b':');
    number(v4.port(), line);
}

/// The name of a version, as in `HTTP/1.1`.
pub(super) fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/3.0",
    }
}

/// Text of a client, with whatever could break a line or a quotation escaped.
pub(super) fn escaped(text: &str, line: &mut Vec<u8>) {
    if are_harmless(text.as_bytes()) {
        line.extend_from_slice(text.as_bytes());
    } else {
        // Writing to memory cannot fail.
        let _infallible = write!(line, "{}", text.escape_debug());
    }
}

/// Whether bytes may stand in a quotation as they are. All are looked at, which the machine does many at a time.
pub(super) fn are_harmless(bytes: &[u8]) -> bool {
    let is_harmless = |byte: u8| {
        byte.is_ascii() & !byte.is_ascii_control() & (byte != b'"') & (byte != b'\'') & (byte != b'\\')
    };
    bytes.iter().fold(true, |all, byte| all & is_harmless(*byte))
}

/// Whether bytes are one word that needs no quotation.
pub(super) fn are_plain(bytes: &[u8]) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() & (byte != b'"') & (byte != b'\\');
    bytes.iter().fold(!bytes.is_empty(), |all, byte| all & is_plain(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(append: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        append(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn times_have_the_decimals_they_need() {
        for (nanos, text) in [
            (0, "0"),
            (499, "0"),
            (500, "0.001"),
            (3_000_000, "3"),
            (2_500_000, "2.5"),
            (12_345_499, "12.345"),
            (999_999_500, "1000"),
            (70_010_000, "70.01"),
        ] {
            assert_eq!(appended(|line| millis(Duration::from_nanos(nanos), line)), text, "{nanos}");
        }
    }

    #[test]
    fn addresses_are_written_as_everywhere() {
        for text in ["10.0.0.255:80", "0.0.0.0:0", "[::1]:65535", "[fe80::1%3]:1"] {
            let parsed: SocketAddr = text.parse().unwrap();
            assert_eq!(appended(|line| address(parsed, line)), parsed.to_string());
            assert_eq!(appended(|line| ip(parsed.ip(), line)), parsed.ip().to_string());
        }
    }

    #[test]
    fn versions_are_called_what_they_are_called() {
        for known in [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3]
        {
            assert_eq!(version(known), format!("{known:?}"));
        }
    }

    #[test]
    fn what_is_plain_is_a_word() {
        for (text, expected) in [
            ("", false),
            ("it's", true),
            ("a b", false),
            ("a\"", false),
            ("\\", false),
            ("~!", true),
            ("\u{7f}", false),
        ] {
            assert_eq!(are_plain(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_escaped_is_escaped_as_in_rust() {
        for text in ["", "/a b", "a\"b", "it's", "\\", "\n\t\0\u{7f}", "ü\u{200b}", "e\u{301}"] {
            assert_eq!(appended(|line| escaped(text, line)), text.escape_debug().to_string(), "{text:?}");
        }
    }
}
