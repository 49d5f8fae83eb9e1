//! What the control thread has a worker do between bursts, when devices come and go.
//!
//! A socket is bound by the control thread, since that pins memory and may wait, with frames that the worker gives
//! away for it: [`Order::Lend`], then [`Order::Serve`] for each socket and [`Order::Return`] for what is left. A
//! worker looks whether there is an order once a round; what an order costs, some of it allocation, comes with a
//! device and not with a packet.

use crossbeam::queue::ArrayQueue;

use super::ServedQueue;
use crate::routes::DeviceIndex;
use crate::xsk::FramePool;

/// Orders that may wait for a worker.
const WAITING: usize = 256;

/// One thing to do.
pub enum Order {
    /// Serve one more queue.
    Serve(Box<ServedQueue>),
    /// Serve a device no more that is gone; the frames that its sockets had become free.
    Leave(DeviceIndex),
    /// Fill this pool from the worker's own and give it back by [`Orders::lent`].
    Lend(FramePool),
    /// Take these frames back.
    Return(FramePool),
}

/// The way of orders to one worker, and of frames from it.
pub struct Orders {
    given: ArrayQueue<Order>,
    lent: ArrayQueue<FramePool>,
}

impl Default for Orders {
    fn default() -> Self {
        Self { given: ArrayQueue::new(WAITING), lent: ArrayQueue::new(1) }
    }
}

impl Orders {
    /// Gives an order; ring the worker's bell then.
    ///
    /// # Errors
    /// Gives it back if too many wait.
    pub fn give(&self, order: Order) -> Result<(), Order> {
        self.given.push(order)
    }

    /// Takes the pool that the worker filled, if it has done so.
    #[must_use]
    pub fn lent(&self) -> Option<FramePool> {
        self.lent.pop()
    }

    /// Takes the next order; a look at one word if there is none.
    pub(super) fn next(&self) -> Option<Order> {
        if self.given.is_empty() { None } else { self.given.pop() }
    }

    /// Fills a pool and gives it to the control thread; returns how many frames went.
    pub(super) fn lend(&self, mut part: FramePool, pool: &mut FramePool) -> usize {
        part.take_from(pool);
        let frames = part.len();
        match self.lent.push(part) {
            Ok(()) => frames,
            Err(mut part) => {
                pool.take_from(&mut part);
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xsk::FrameMemory;

    #[test]
    fn frames_are_lent_as_far_as_there_are_and_never_twice_at_once() {
        let (memory, mut pool) = FrameMemory::new(8).unwrap();
        let orders = Orders::default();
        assert_eq!(orders.lend(FramePool::with_room(&memory, 6), &mut pool), 6);
        assert_eq!(orders.lend(FramePool::with_room(&memory, 6), &mut pool), 0, "the first waits still");
        assert_eq!(pool.len(), 2);
        let mut lent = orders.lent().unwrap();
        assert_eq!(lent.len(), 6);
        pool.take_from(&mut lent);
        assert_eq!(pool.len(), 8);
        assert!(orders.lent().is_none());
    }

    #[test]
    fn orders_come_in_the_order_they_were_given_and_no_more_than_there_is_room_for() {
        let orders = Orders::default();
        assert!(orders.next().is_none());
        for number in 0..WAITING as u32 {
            assert!(orders.give(Order::Leave(DeviceIndex(number))).is_ok());
        }
        assert!(orders.give(Order::Leave(DeviceIndex(0))).is_err());
        assert!(matches!(orders.next(), Some(Order::Leave(DeviceIndex(0)))));
        assert!(matches!(orders.next(), Some(Order::Leave(DeviceIndex(1)))));
    }
}
