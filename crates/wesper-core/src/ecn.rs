//! ECN through tunnels (RFC 6040). Codepoints by number: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE.

/// How a combination that no known ingress makes is to be taken (RFC 6040 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// It is a known one.
    None,
    /// It may be an attack.
    Possible,
    /// It is never right.
    Always,
}

impl Alarm {
    /// Name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Possible => "possible",
            Self::Always => "always",
        }
    }
}

/// Returns the codepoint to deliver, none for a drop, and the alarm.
///
/// Source: RFC 6040 §4.2, figure 4.
#[inline]
pub fn decapsulate(inner: u8, outer: u8) -> (Option<u8>, Alarm) {
    let [inner, outer] = [inner & 3, outer & 3];
    match (inner, outer) {
        (NOT_ECT, NOT_ECT) => (Some(inner), Alarm::None),
        (NOT_ECT, CE) => (None, Alarm::Always),
        (NOT_ECT, _) | (CE, ECT_1) => (Some(inner), Alarm::Always),
        (ECT_1, ECT_0) => (Some(inner), Alarm::Possible),
        (ECT_0, ECT_1) | (ECT_1 | ECT_0, CE) => (Some(outer), Alarm::None),
        _ => (Some(inner), Alarm::None),
    }
}

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector_file::{list, number};

    #[test]
    fn every_combination_is_that_of_the_vectors() {
        let rows = list("ecn_decapsulation");
        assert_eq!(rows.len(), 16);
        for row in rows {
            let (result, alarm) = decapsulate(number(&row["inner"]) as u8, number(&row["outer"]) as u8);
            assert_eq!(result.map(u64::from), row["result"].as_u64(), "{row}");
            assert_eq!(alarm.name(), row["alarm"].as_str().expect("a name"), "{row}");
        }
    }
}
