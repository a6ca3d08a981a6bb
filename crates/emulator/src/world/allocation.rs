//! Which hub a device belongs to.

use std::sync::Arc;

use super::id::hash;
use crate::clock::mix;
use crate::config::Allocation;

/// A hub that a DPS instance is linked to.
#[derive(Debug, Clone)]
pub(crate) struct Linked {
    pub(crate) host: Arc<str>,
    pub(crate) weight: u32,
    pub(crate) latency_ms: u32,
}

/// Chooses among `candidates`; none where there is none. `registration_id` counts without case.
pub(crate) fn allocate(
    policy: Allocation,
    candidates: &[&Linked],
    registration_id: &str,
) -> Option<Arc<str>> {
    let chosen = match policy {
        Allocation::Static => candidates.first(),
        // The first of the nearest: the order is the configuration's or the enrollment's.
        Allocation::GeoLatency => candidates.iter().min_by_key(|linked| linked.latency_ms),
        Allocation::Hashed => {
            let id = registration_id.to_ascii_lowercase();
            candidates.iter().max_by(|a, b| score(a, &id).total_cmp(&score(b, &id)))
        }
    };
    chosen.map(|linked| Arc::clone(&linked.host))
}

/// Rendezvous hashing: in proportion to the weights, and no device moves between hubs that stay.
fn score(linked: &Linked, id: &str) -> f64 {
    let drawn = mix(hash(id) ^ hash(&linked.host).rotate_left(32));
    // In (0, 1): 53 bits, which a double holds exactly.
    let unit = ((drawn >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(linked.weight) / -unit.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked(weights: &[(&str, u32)]) -> Vec<Linked> {
        let hubs = weights.iter().enumerate();
        hubs.map(|(no, (host, weight))| Linked {
            host: (*host).into(),
            weight: *weight,
            latency_ms: 50 - no as u32,
        })
        .collect()
    }

    fn chosen(policy: Allocation, hubs: &[Linked], id: &str) -> Option<Arc<str>> {
        allocate(policy, &hubs.iter().collect::<Vec<_>>(), id)
    }

    #[test]
    fn hashing_keeps_to_the_weights_and_moves_no_more_than_it_must() {
        let three = linked(&[("a", 1), ("b", 1), ("c", 2)]);
        let two = linked(&[("a", 1), ("b", 1)]);
        let mut of_c = 0;
        for no in 0..10_000 {
            let id = format!("Device-{no}");
            let among_three = chosen(Allocation::Hashed, &three, &id).unwrap();
            if &*among_three == "c" {
                of_c += 1;
            } else {
                assert_eq!(Some(among_three), chosen(Allocation::Hashed, &two, &id.to_lowercase()));
            }
        }
        assert!((4_700..5_300).contains(&of_c), "{of_c}");
    }

    #[test]
    fn static_takes_the_first_and_latency_the_nearest() {
        let hubs = linked(&[("a", 1), ("b", 1)]);
        assert_eq!(chosen(Allocation::Static, &hubs, "x").as_deref(), Some("a"));
        assert_eq!(chosen(Allocation::GeoLatency, &hubs, "x").as_deref(), Some("b"));
        assert_eq!(chosen(Allocation::Hashed, &[], "x"), None);
    }
}
