//! Waiting for a GPU that may never answer: a driver that hangs says nothing, and no promise of its is ever settled.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::{Error, Result};

/// A silence is counted in so many parts of the patience, as a clock that went on while the machine slept would have the
/// GPU silent all that time.
const PARTS: u32 = 16;
/// What was silent for so long and answered may be silent for this many times as long.
const GENEROSITY: u32 = 4;

/// Something that ends after a while.
pub type Sleep = Pin<Box<dyn Future<Output = ()>>>;

/// How long a GPU may be silent while it is awaited, and a clock to tell by.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long at first; four times the longest silence that was broken, where that is more.
    pub limit: Duration,
    /// Ends after this time.
    pub sleep: fn(Duration) -> Sleep,
}

/// Listens to a GPU.
pub(super) struct Watch {
    patience: Option<Patience>,
    /// Submits that were done. A step may take longer than anyone's patience; each of its submits does not.
    done: Arc<AtomicU64>,
    /// Parts of the longest silence that was broken.
    longest: Cell<u32>,
}

impl Watch {
    /// Without patience a GPU is waited for as long as it takes.
    pub(super) fn new(patience: Option<Patience>) -> Self {
        Self { patience, done: Arc::default(), longest: Cell::new(0) }
    }

    /// To be called when what was submitted is done, where anyone listens.
    pub(super) fn pulse(&self) -> Option<impl FnOnce() + Send + 'static> {
        let done = self.done.clone();
        self.patience.is_some().then_some(move || {
            done.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// What is awaited.
    ///
    /// Errors with `DeviceLost` once the GPU has been silent for too long.
    pub(super) async fn answer<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        let Some(Patience { limit, sleep }) = self.patience else { return Ok(answer.await) };
        let mut answer = pin!(answer);
        let (mut heard, mut silence) = (self.done.load(Ordering::Relaxed), 0);
        loop {
            let mut part = sleep(limit / PARTS);
            let next = poll_fn(|context| match answer.as_mut().poll(context) {
                Poll::Ready(value) => Poll::Ready(Some(value)),
                Poll::Pending => part.as_mut().poll(context).map(|()| None),
            });
            let value = next.await;
            let now = self.done.load(Ordering::Relaxed);
            if value.is_some() || now != heard {
                self.longest.set(self.longest.get().max(silence));
                (heard, silence) = (now, 0);
            } else {
                silence += 1;
            }
            if let Some(value) = value {
                return Ok(value);
            }
            if silence >= PARTS.max(GENEROSITY * self.longest.get()) {
                let seconds = (limit * silence / PARTS).as_secs_f64();
                return Err(Error::DeviceLost { message: format!("it has answered nothing for {seconds:.1} seconds") });
            }
        }
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// A clock whose parts are over the second time they are asked about.
    fn at_once(_: Duration) -> Sleep {
        let mut asked = false;
        Box::pin(poll_fn(move |context| {
            context.waker().wake_by_ref();
            if std::mem::replace(&mut asked, true) { Poll::Ready(()) } else { Poll::Pending }
        }))
    }

    fn watch() -> Watch {
        Watch::new(Some(Patience { limit: Duration::from_secs(60), sleep: at_once }))
    }

    /// Ready the `n`-th time that it is asked; every so many times, a submit is done.
    fn after(n: u32, watch: &Watch, every: u32) -> impl Future<Output = u32> {
        let mut asked = 0;
        poll_fn(move |_| {
            asked += 1;
            if every > 0 && asked % every == 0 {
                watch.pulse().unwrap()();
            }
            if asked == n { Poll::Ready(n) } else { Poll::Pending }
        })
    }

    #[test]
    fn silence_is_a_loss_and_signs_of_life_are_none() {
        let watch = watch();
        assert_eq!(pollster::block_on(watch.answer(ready(7))), Ok(7));
        let lost = pollster::block_on(watch.answer(pending::<()>())).unwrap_err();
        assert_eq!(lost.to_string(), "the GPU was lost: it has answered nothing for 60.0 seconds");
        // Far longer than the patience, but never silent for long.
        assert_eq!(pollster::block_on(watch.answer(after(1000, &watch, 5))), Ok(1000));
        assert!(pollster::block_on(watch.answer(after(1000, &watch, 0))).is_err());
    }

    #[test]
    fn who_was_slow_is_waited_for_longer() {
        let watch = watch();
        // Twelve parts of the sixteen, each asked about twice.
        assert!(pollster::block_on(watch.answer(after(24, &watch, 0))).is_ok());
        let longer = watch.longest.get() * GENEROSITY;
        assert!(longer > 2 * PARTS, "{longer} parts");
        let lost = pollster::block_on(watch.answer(pending::<()>())).unwrap_err().to_string();
        assert!(lost.contains(&format!("{:.1} seconds", 60.0 / f64::from(PARTS) * f64::from(longer))), "{lost}");
    }

    #[test]
    fn without_a_clock_there_is_no_end() {
        let watch = Watch::new(None);
        assert!(watch.pulse().is_none());
        assert_eq!(pollster::block_on(watch.answer(ready(7))), Ok(7));
    }
}
