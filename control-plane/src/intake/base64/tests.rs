use super::decode;

#[test]
fn rfc_4648_vectors() {
    for (text, bytes) in
        [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg", "foob"), ("Zm9vYmFy", "foobar")]
    {
        assert_eq!(decode(text).unwrap(), bytes.as_bytes());
    }
    assert_eq!(decode("//+A").unwrap(), [0xff, 0xff, 0x80]);
    assert!(decode("Zm9*").is_err() && decode("Z").is_err());
}
