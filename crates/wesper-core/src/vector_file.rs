//! Reads `vectors/esp.json` for the tests of this crate.

use serde_json::Value;

/// Returns one list of the file.
pub(crate) fn list(name: &str) -> Vec<Value> {
    let text = include_str!("../../../vectors/esp.json");
    let file: Value = serde_json::from_str(text).expect("esp.json is JSON");
    let list = file[name].as_array().expect("the list is there").clone();
    assert!(!list.is_empty(), "{name} is empty");
    list
}

/// Decodes an octet string written in hexadecimal.
pub(crate) fn octets(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a hex string");
    assert!(text.len().is_multiple_of(2));
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

/// Decodes a number written as `"0x…"` or as a JSON number.
pub(crate) fn number(value: &Value) -> u64 {
    match value.as_str() {
        Some(text) => u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hex number"),
        None => value.as_u64().expect("a number"),
    }
}
