//! Damages of all kinds, the same for the same seed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Calls `check` with damaged copies of `bytes`: changed, cut, doubled, and with extreme numbers.
pub(crate) fn damage(bytes: &[u8], copies: usize, mut check: impl FnMut(Vec<u8>)) {
    let mut random = ChaCha8Rng::seed_from_u64(41);
    for _ in 0..copies {
        let mut copy = bytes.to_vec();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..copy.len());
            match random.random_range(0..6) {
                0 => copy[at] = random.random(),
                1 => copy[at] ^= 1 << random.random_range(0..8),
                2 => copy.truncate(at.max(1)),
                3 => {
                    let end = (at + random.random_range(1..64)).min(copy.len());
                    let part = copy[at..end].to_vec();
                    copy.splice(at..at, part);
                }
                4 => {
                    let number: u64 =
                        [0, 1, 0x7fff_ffff, 0x8000_0000, u64::MAX >> 1, u64::MAX][random.random_range(0..6)];
                    let end = (at + 8).min(copy.len());
                    copy[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
                }
                _ => {
                    let end = (at + random.random_range(1..32)).min(copy.len());
                    copy.drain(at..end);
                    if copy.is_empty() {
                        copy.push(0);
                    }
                }
            }
        }
        check(copy);
    }
}
