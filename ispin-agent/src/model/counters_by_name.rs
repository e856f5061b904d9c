//! Counters as a map from their names, for serde.

use ispin_common::counters::Counters;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserializer, Serializer, ser::SerializeMap};

pub fn serialize<S: Serializer>(c: &Counters, s: S) -> Result<S::Ok, S::Error> {
    let mut map = s.serialize_map(Some(Counters::COUNT))?;
    for (name, value) in Counters::NAMES.iter().zip(c.values()) {
        map.serialize_entry(name, &value)?;
    }
    map.end()
}

pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Counters, D::Error> {
    struct ByName;
    impl<'de> Visitor<'de> for ByName {
        type Value = Counters;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("a map from counter names to numbers")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Counters, A::Error> {
            let mut values = [0; Counters::COUNT];
            while let Some((name, value)) = map.next_entry::<String, u64>()? {
                let at = Counters::NAMES
                    .iter()
                    .position(|known| **known == name)
                    .ok_or_else(|| A::Error::custom(format!("unknown counter `{name}`")))?;
                values[at] = value;
            }
            Ok(Counters::from_values(&values))
        }
    }
    d.deserialize_map(ByName)
}
