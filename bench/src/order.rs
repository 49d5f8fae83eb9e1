//! The order in which flows come: shuffled, so that no look-up profits from the one before.

/// Numbers from zero to `count`, each once in a round, in an order without a pattern; then the same round again.
#[derive(Clone, Debug)]
pub struct Order {
    numbers: Vec<u32>,
    next: usize,
}

impl Order {
    /// Shuffles the numbers. The order is the same in every run.
    #[must_use]
    pub fn new(count: u32) -> Self {
        let mut numbers: Vec<u32> = (0..count).collect();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for last in (1..numbers.len()).rev() {
            // Source: Marsaglia, "Xorshift RNGs", 2003; the shuffle is Fisher and Yates's.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            numbers.swap(last, (random % (last as u64 + 1)) as usize);
        }
        Self { numbers, next: 0 }
    }
}

impl Iterator for Order {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let number = *self.numbers.get(self.next)?;
        self.next = (self.next + 1) % self.numbers.len();
        Some(number)
    }
}
