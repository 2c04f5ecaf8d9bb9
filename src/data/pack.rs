//! Puts examples together into passes of about the same size.

/// One forward and backward pass: examples packed end to end, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Indices of the examples, ascending.
    pub examples: Vec<usize>,
}

/// First-fit decreasing: examples from long to short, each into the first pass with room for it.
///
/// No pass has more than `capacity` tokens, except that an example longer than that has one to itself. The result
/// depends on nothing but the arguments; passes are ordered by their first example.
pub fn pack(lengths: &[usize], capacity: usize) -> Vec<Pack> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut packs: Vec<(usize, Pack)> = Vec::new();
    for i in order {
        match packs.iter_mut().find(|(room, _)| lengths[i] <= *room) {
            Some((room, pack)) => {
                *room -= lengths[i];
                pack.examples.push(i);
            }
            None => packs.push((capacity.saturating_sub(lengths[i]), Pack { examples: vec![i] })),
        }
    }
    let mut packs: Vec<Pack> = packs.into_iter().map(|(_, pack)| pack).collect();
    for pack in &mut packs {
        pack.examples.sort_unstable();
    }
    packs.sort_unstable_by_key(|pack| pack.examples[0]);
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_in_one_pass_that_holds_it() {
        let lengths: Vec<usize> = (0..200).map(|i| i * 7919 % 300 + 1).collect();
        for capacity in [300, 301, 512, 4096] {
            let packs = pack(&lengths, capacity);
            let mut all: Vec<usize> = packs.iter().flat_map(|pack| pack.examples.clone()).collect();
            all.sort_unstable();
            assert_eq!(all, (0..200).collect::<Vec<_>>());
            let sizes: Vec<usize> = packs.iter().map(|pack| pack.examples.iter().map(|&i| lengths[i]).sum()).collect();
            assert!(sizes.iter().all(|&size| size <= capacity));
            // First-fit decreasing needs at most 11/9 of the best, and never leaves two passes half empty.
            let best = lengths.iter().sum::<usize>().div_ceil(capacity);
            assert!(packs.len() <= best * 11 / 9 + 1, "{} passes where {best} are the least", packs.len());
        }
    }

    #[test]
    fn edges() {
        assert_eq!(pack(&[], 10), []);
        assert_eq!(pack(&[4, 6, 5], 10), [Pack { examples: vec![0, 1] }, Pack { examples: vec![2] }]);
        assert_eq!(pack(&[20, 3], 10), [Pack { examples: vec![0] }, Pack { examples: vec![1] }]);
    }
}
