//! A map whose copies share what they have in common.

use std::sync::Arc;

/// Bits of the hash that one level consumes.
const BITS: u32 = 5;
const SLOTS: u64 = 1 << BITS;

/// A persistent hash trie: a clone costs one reference count, a change of a clone the path to what changes.
///
/// Depth is at most 13, about log32 of the size with a good hash. An entry lies in its branch, since one of its own would
/// cost more than most entries do.
#[derive(Clone)]
pub(super) struct Trie<K, V> {
    root: Option<Node<K, V>>,
}

#[derive(Clone)]
enum Node<K, V> {
    Branch(Arc<Branch<K, V>>),
    Leaf {
        hash: u64,
        key: K,
        value: V,
    },
    /// Entries with one hash; never empty but within a removal.
    Crowd(Arc<Crowd<K, V>>),
}

/// `children` holds one node per bit of `present`, in the order of the bits.
#[derive(Clone)]
struct Branch<K, V> {
    present: u32,
    children: Vec<Node<K, V>>,
}

#[derive(Clone)]
struct Crowd<K, V> {
    hash: u64,
    entries: Vec<(K, V)>,
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
            match node {
                Node::Branch(branch) => {
                    let (bit, at) = position(branch.present, rest);
                    if branch.present & bit == 0 {
                        return None;
                    }
                    node = &branch.children[at];
                    rest >>= BITS;
                }
                Node::Leaf { hash: own, key, value } => return (*own == hash && is(key)).then_some(value),
                Node::Crowd(crowd) => {
                    let mut entries = crowd.entries.iter().filter(|_| crowd.hash == hash);
                    return entries.find(|(key, _)| is(key)).map(|(_, value)| value);
                }
            }
        }
    }

    /// Sets a key's value.
    pub(super) fn insert(&mut self, hash: u64, key: K, value: V) {
        match &mut self.root {
            Some(root) => insert(root, hash, 0, key, value),
            None => self.root = Some(Node::Leaf { hash, key, value }),
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
        let mut waiting: Vec<&Node<K, V>> = self.root.iter().collect();
        while let Some(node) = waiting.pop() {
            match node {
                Node::Branch(branch) => waiting.extend(&branch.children),
                Node::Leaf { key, value, .. } => visit(key, value),
                Node::Crowd(crowd) => crowd.entries.iter().for_each(|(key, value)| visit(key, value)),
            }
        }
    }
}

impl<K, V> Node<K, V> {
    /// Returns the hash of all entries; `None` for a branch, where they differ.
    fn hash(&self) -> Option<u64> {
        match self {
            Self::Branch(_) => None,
            Self::Leaf { hash, .. } => Some(*hash),
            Self::Crowd(crowd) => Some(crowd.hash),
        }
    }
}

/// Returns the bit of the next level and where its child stands or would stand.
fn position(present: u32, rest: u64) -> (u32, usize) {
    let bit = 1_u32 << (rest % SLOTS);
    (bit, (present & (bit - 1)).count_ones() as usize)
}

fn insert<K: Clone + Eq, V: Clone>(node: &mut Node<K, V>, hash: u64, depth: u32, key: K, value: V) {
    if let Some(other) = node.hash().filter(|other| *other != hash) {
        let (present, _) = position(0, other >> (depth * BITS));
        *node = Node::Branch(Arc::new(Branch { present, children: vec![node.clone()] }));
    }
    match node {
        Node::Leaf { key: own, value: old, .. } if *own == key => *old = value,
        Node::Leaf { key: own, value: other, .. } => {
            let entries = vec![(own.clone(), other.clone()), (key, value)];
            *node = Node::Crowd(Arc::new(Crowd { hash, entries }));
        }
        Node::Crowd(crowd) => {
            let entries = &mut Arc::make_mut(crowd).entries;
            match entries.iter_mut().find(|(own, _)| *own == key) {
                Some((_, old)) => *old = value,
                None => entries.push((key, value)),
            }
        }
        Node::Branch(branch) => {
            let Branch { present, children } = Arc::make_mut(branch);
            let (bit, at) = position(*present, hash >> (depth * BITS));
            if *present & bit == 0 {
                *present |= bit;
                // Room for more would be a third of all that a great trie takes.
                children.reserve_exact(1);
                children.insert(at, Node::Leaf { hash, key, value });
            } else {
                insert(&mut children[at], hash, depth + 1, key, value);
            }
        }
    }
}

/// Removes a key that is there and says whether the node is empty now.
fn remove<K: Clone + Eq, V: Clone>(node: &mut Node<K, V>, rest: u64, key: &K) -> bool {
    match node {
        Node::Leaf { key: own, .. } => own == key,
        Node::Crowd(crowd) => {
            let entries = &mut Arc::make_mut(crowd).entries;
            entries.retain(|(own, _)| own != key);
            entries.is_empty()
        }
        Node::Branch(branch) => {
            let Branch { present, children } = Arc::make_mut(branch);
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
        (0..32 * 32_u64).for_each(|hash| before.insert(hash, hash, 0));
        let mut after = before.clone();
        after.insert(5, 5, 1);
        let (Some(Node::Branch(old)), Some(Node::Branch(new))) = (&before.root, &after.root) else {
            panic!("so many keys need branches")
        };
        let is_shared = |nodes: &(&Node<u64, u32>, &Node<u64, u32>)| match nodes {
            (Node::Branch(old), Node::Branch(new)) => Arc::ptr_eq(old, new),
            _ => panic!("so many keys need two levels"),
        };
        assert_eq!(old.children.iter().zip(&new.children).filter(is_shared).count(), 31);
    }
}
