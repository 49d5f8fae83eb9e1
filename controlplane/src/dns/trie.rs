//! A map whose copies share what they have in common.

use std::sync::Arc;

/// Bits of the hash that one level consumes.
const BITS: u32 = 5;
const SLOTS: u64 = 1 << BITS;

/// A persistent hash trie: a clone costs one reference count, a change of a clone the path to what changes.
///
/// Depth is at most 13, about log32 of the size with a good hash; keys with equal hashes share a leaf.
#[derive(Clone)]
pub(super) struct Trie<K, V> {
    root: Option<Arc<Node<K, V>>>,
}

#[derive(Clone)]
enum Node<K, V> {
    /// `children` holds one node per bit of `present`, in the order of the bits.
    Branch { present: u32, children: Vec<Arc<Node<K, V>>> },
    /// Never empty but within a removal.
    Leaf { hash: u64, entries: Vec<(K, V)> },
}

impl<K: Clone + Eq, V: Clone> Trie<K, V> {
    pub(super) const fn new() -> Self {
        Self { root: None }
    }

    /// Finds the value of the key with this hash that `is` recognises.
    pub(super) fn lookup(&self, hash: u64, is: impl Fn(&K) -> bool) -> Option<&V> {
        let mut node = self.root.as_ref()?;
        let mut rest = hash;
        loop {
            match &**node {
                Node::Branch { present, children } => {
                    let (bit, at) = position(*present, rest);
                    if present & bit == 0 {
                        return None;
                    }
                    node = &children[at];
                    rest >>= BITS;
                }
                Node::Leaf { hash: own, entries } if *own == hash => {
                    return entries.iter().find(|(key, _)| is(key)).map(|(_, value)| value);
                }
                Node::Leaf { .. } => return None,
            }
        }
    }

    /// Sets a key's value.
    pub(super) fn insert(&mut self, hash: u64, key: K, value: V) {
        match &mut self.root {
            Some(root) => insert(root, hash, hash, 0, key, value),
            None => self.root = Some(leaf(hash, key, value)),
        }
    }

    /// Removes a key; does nothing if it is not there.
    pub(super) fn remove(&mut self, hash: u64, key: &K) {
        if self.lookup(hash, |own| own == key).is_none() {
            return;
        }
        if let Some(root) = &mut self.root
            && remove(root, hash, key)
        {
            self.root = None;
        }
    }

    /// Visits every entry, in no order that means anything.
    #[cfg(test)]
    pub(super) fn for_each(&self, mut visit: impl FnMut(&K, &V)) {
        let mut waiting: Vec<&Node<K, V>> = self.root.as_deref().into_iter().collect();
        while let Some(node) = waiting.pop() {
            match node {
                Node::Branch { children, .. } => waiting.extend(children.iter().map(|child| &**child)),
                Node::Leaf { entries, .. } => entries.iter().for_each(|(key, value)| visit(key, value)),
            }
        }
    }
}

/// Returns the bit of the next level and where its child stands or would stand.
fn position(present: u32, rest: u64) -> (u32, usize) {
    let bit = 1_u32 << (rest % SLOTS);
    (bit, (present & (bit - 1)).count_ones() as usize)
}

fn leaf<K, V>(hash: u64, key: K, value: V) -> Arc<Node<K, V>> {
    Arc::new(Node::Leaf { hash, entries: vec![(key, value)] })
}

fn insert<K: Clone + Eq, V: Clone>(
    node: &mut Arc<Node<K, V>>,
    hash: u64,
    rest: u64,
    depth: u32,
    key: K,
    value: V,
) {
    if let Node::Leaf { hash: other, .. } = **node
        && other != hash
    {
        let (bit, _) = position(0, other >> (depth * BITS));
        let children = vec![Arc::clone(node)];
        *node = Arc::new(Node::Branch { present: bit, children });
    }
    match Arc::make_mut(node) {
        Node::Leaf { entries, .. } => match entries.iter_mut().find(|(own, _)| *own == key) {
            Some((_, old)) => *old = value,
            None => entries.push((key, value)),
        },
        Node::Branch { present, children } => {
            let (bit, at) = position(*present, rest);
            if *present & bit == 0 {
                *present |= bit;
                children.insert(at, leaf(hash, key, value));
            } else {
                insert(&mut children[at], hash, rest >> BITS, depth + 1, key, value);
            }
        }
    }
}

/// Removes a key that is there and says whether the node is empty now.
fn remove<K: Clone + Eq, V: Clone>(node: &mut Arc<Node<K, V>>, rest: u64, key: &K) -> bool {
    match Arc::make_mut(node) {
        Node::Leaf { entries, .. } => {
            entries.retain(|(own, _)| own != key);
            entries.is_empty()
        }
        Node::Branch { present, children } => {
            let (bit, at) = position(*present, rest);
            if *present & bit != 0 && remove(&mut children[at], rest >> BITS, key) {
                *present &= !bit;
                children.remove(at);
            }
            children.is_empty()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Few distinct hashes that agree in their low bits: deep branches and shared leaves.
    fn hash_of(key: u16) -> u64 {
        u64::from(key % 7) << 61 | u64::from(key % 3) << 30 | u64::from(key % 40)
    }

    fn contents(trie: &Trie<u16, u32>) -> BTreeMap<u16, u32> {
        let mut all = BTreeMap::new();
        trie.for_each(|&key, &value| assert_eq!(all.insert(key, value), None, "{key} is there twice"));
        all
    }

    proptest! {
        #[test]
        fn a_trie_holds_what_a_map_holds_and_copies_stay_as_they_were(
            steps in prop::collection::vec((0_u16..300, prop::option::of(any::<u32>())), 0..400),
        ) {
            let (mut trie, mut model) = (Trie::new(), BTreeMap::new());
            let mut copies = Vec::new();
            for (number, (key, value)) in steps.into_iter().enumerate() {
                match value {
                    Some(value) => {
                        trie.insert(hash_of(key), key, value);
                        model.insert(key, value);
                    }
                    None => {
                        trie.remove(hash_of(key), &key);
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(trie.lookup(hash_of(key), |own| *own == key), model.get(&key));
                if number % 50 == 0 {
                    copies.push((trie.clone(), model.clone()));
                }
            }
            copies.push((trie, model));
            for (trie, model) in copies {
                prop_assert_eq!(contents(&trie), model);
            }
        }
    }

    #[test]
    fn a_change_leaves_untouched_branches_shared() {
        let mut before = Trie::new();
        (0..32_u64).for_each(|hash| before.insert(hash, hash, 0));
        let mut after = before.clone();
        after.insert(5, 5, 1);
        let (Some(Node::Branch { children: old, .. }), Some(Node::Branch { children: new, .. })) =
            (before.root.as_deref(), after.root.as_deref())
        else {
            panic!("32 keys need a branch")
        };
        let shared = old.iter().zip(new).filter(|(old, new)| Arc::ptr_eq(old, new)).count();
        assert_eq!(shared, 31);
    }
}
