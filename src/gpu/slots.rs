//! Where transient buffers live: those whose uses do not overlap share a slot, which is a buffer of its own (one large
//! buffer would not do: WebGPU lets no dispatch write to a buffer that it also reads, however far apart).

use super::recording::{Command, Place, Recording, Slice};

/// First and last command that uses a buffer.
type Life = (usize, usize);

/// A slot for each transient buffer.
pub(super) struct Slots {
    /// By virtual buffer; none where it is external or not used.
    pub(super) of: Vec<Option<usize>>,
    /// Bytes of each slot.
    pub(super) sizes: Vec<u64>,
}

impl Slots {
    /// The largest buffers first, each to the smallest slot that is free during its life.
    pub(super) fn assign(recording: &Recording) -> Self {
        let mut order: Vec<_> = transients(recording).collect();
        order.sort_by_key(|&(index, size, life)| (std::cmp::Reverse(size), life, index));
        let mut of = vec![None; recording.buffers.len()];
        let mut sizes: Vec<u64> = vec![];
        let mut lives: Vec<Vec<Life>> = vec![];
        for (index, size, (first, last)) in order {
            let free = |slot: &usize| lives[*slot].iter().all(|&(from, to)| to < first || last < from);
            // Slots were made in the order of their sizes, and all so far are at least as large.
            let slot = (0..sizes.len()).rev().find(free).unwrap_or(sizes.len());
            if slot == sizes.len() {
                sizes.push(size);
                lives.push(vec![]);
            }
            lives[slot].push((first, last));
            of[index] = Some(slot);
        }
        Self { of, sizes }
    }
}

impl Recording {
    /// Bytes of the transient buffers that the first phase uses and later ones too.
    pub(super) fn kept_bytes(&self) -> u64 {
        let at = self.first_phase_end();
        transients(self).filter(|&(_, _, (first, last))| first < at && at <= last).map(|(_, size, _)| size).sum()
    }
}

/// `(virtual buffer, bytes, life)` of each that is used.
fn transients(recording: &Recording) -> impl Iterator<Item = (usize, u64, Life)> {
    let mut lives: Vec<Option<Life>> = vec![None; recording.buffers.len()];
    for (at, command) in recording.commands.iter().enumerate() {
        let mut touch = |slice: &Slice| lives[slice.buffer].get_or_insert((at, at)).1 = at;
        match command {
            Command::Dispatch { bindings, .. } => bindings.iter().for_each(&mut touch),
            Command::Clear(slice) => touch(slice),
            Command::Copy { from, to } => [from, to].into_iter().for_each(&mut touch),
        }
    }
    let sizes = recording.buffers.iter().map(|buffer| match buffer.place {
        Place::Transient { size_bytes } => Some(size_bytes),
        Place::External(_) => None,
    });
    let found =
        lives.into_iter().zip(sizes).enumerate().filter_map(|(index, (life, size))| Some((index, size?, life?)));
    found.collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Buffer, DeviceInfo, Gpu};

    /// A forward and a backward pass in miniature: each layer keeps `kept`, and needs `moment` for a moment.
    fn layers(n: usize, kept: u64, moment: impl Fn(usize) -> u64) -> Recording {
        let info = DeviceInfo { max_buffer_size: 1 << 28, ..Default::default() };
        let mut rec = Recording::new(&Buffer::uniform(&Gpu::paper(info), "step", 16).unwrap(), 1);
        let layer = |rec: &mut Recording, at: usize, saved: Slice| {
            let moment = rec.transient("moment", moment(at));
            rec.clear(moment);
            rec.clear(saved);
            rec.clear(moment);
        };
        let saved: Vec<Slice> = (0..n).map(|at| rec.transient(&format!("kept{at}"), kept)).collect();
        (0..n).for_each(|at| layer(&mut rec, at, saved[at]));
        rec.phase("backward");
        (0..n).rev().for_each(|at| layer(&mut rec, at, saved[at]));
        rec
    }

    #[test]
    fn what_overlaps_has_slots_of_its_own_and_what_does_not_shares() {
        let rec = layers(9, 1000 * 16, |at| 16 * (1 + at as u64 * 37 % 9));
        let slots = Slots::assign(&rec);
        let all: Vec<_> = transients(&rec).collect();
        for (a, size, (first, last)) in &all {
            assert!(slots.sizes[slots.of[*a].unwrap()] >= *size);
            let rivals = all.iter().filter(|(b, _, life)| b != a && life.0 <= *last && *first <= life.1);
            rivals.for_each(|(b, ..)| assert_ne!(slots.of[*a], slots.of[*b]));
        }
        // Nine that are kept, and the largest of those for a moment.
        assert_eq!(slots.sizes.iter().sum::<u64>(), 9 * 16_000 + 9 * 16);
        assert_eq!(rec.kept_bytes(), 9 * 16_000);
    }
}
