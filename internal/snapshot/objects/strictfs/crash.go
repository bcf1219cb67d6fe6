package strictfs

import (
	"iter"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// choice is one thing that a power cut decides, and how many ways it has.
type choice struct {
	group int   // a folder's change: lost, its new name kept, all of it kept
	node  *node // a file's bytes that weren't synced: see outcome
	ways  int
}

// Crashes returns every filesystem that a power cut now may leave or, where there
// are more than most, the ones in which nothing and everything was kept, and
// others by chance. f itself stays as it is.
func (f *FS) Crashes(seed uint64, most int) iter.Seq[*FS] {
	f.mu.Lock()
	defer f.mu.Unlock()
	choices := f.choices()
	total := 1
	for _, c := range choices {
		if total *= c.ways; total > most {
			break
		}
	}
	return func(yield func(*FS) bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if total <= most {
			for n := range total {
				if !yield(f.after(choices, func(c choice) int { way := n % c.ways; n /= c.ways; return way })) {
					return
				}
			}
			return
		}
		r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // no secret
		for n := range most {
			pick := func(c choice) int { return r.IntN(c.ways) }
			if n < 2 { // nothing, everything
				pick = func(c choice) int { return n * (c.ways - 1) }
			}
			if !yield(f.after(choices, pick)) {
				return
			}
		}
	}
}

// choices lists what a power cut decides. mu is held.
func (f *FS) choices() []choice {
	groups := make(map[int]int) // how many entries each has
	nodes := make(map[*node]bool)
	var list []choice
	for _, path := range slices.Sorted(maps.Keys(f.dirs)) {
		d := f.dirs[path]
		unsynced := func(n *node) {
			if n != nil && !n.isDir && n.synced < len(n.data) && !nodes[n] {
				nodes[n] = true
				list = append(list, choice{node: n, ways: 4})
			}
		}
		for _, e := range d.pending {
			groups[e.group]++
			unsynced(e.node)
		}
		for _, name := range slices.Sorted(maps.Keys(d.disk)) {
			unsynced(d.disk[name])
		}
	}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		list = append(list, choice{group: g, ways: 1 + groups[g]})
	}
	return list
}

// after is the filesystem that one outcome leaves. mu is held.
func (f *FS) after(choices []choice, pick func(choice) int) *FS {
	kept := make(map[int]int)
	files := make(map[*node]*node)
	for _, c := range choices {
		if way := pick(c); c.node != nil {
			files[c.node] = c.node.outcome(way)
		} else {
			kept[c.group] = way
		}
	}
	left := New(f.root)
	f.copyDir(left, f.root, kept, files)
	return left
}

// copyDir copies what is left of a folder, which is itself left.
func (f *FS) copyDir(left *FS, path string, kept map[int]int, files map[*node]*node) {
	from, to := f.dirs[path], newDir()
	left.dirs[path] = to
	names := maps.Clone(from.disk)
	for _, e := range from.pending {
		switch way := kept[e.group]; {
		case e.node != nil && way >= 1:
			names[e.name] = e.node
		case e.node == nil && (way == 2 || way == 1 && !f.renamed(e.group)):
			delete(names, e.name)
		}
	}
	for name, n := range names {
		if n.isDir {
			f.copyDir(left, filepath.Join(path, name), kept, files)
		}
		if after := files[n]; after != nil {
			n = after
		}
		to.now[name], to.disk[name] = n, n
	}
}

// renamed says whether a group of changes has a new name still to be kept: its
// removal then needs both.
func (f *FS) renamed(group int) bool {
	for _, d := range f.dirs {
		if slices.ContainsFunc(d.pending, func(e entry) bool { return e.group == group && e.node != nil }) {
			return true
		}
	}
	return false
}

// outcome is a file after a power cut: its bytes beyond the synced ones lost,
// half there, there as zeros, or all there.
func (n *node) outcome(way int) *node {
	synced := max(n.synced, 0)
	data := slices.Clone(n.data)
	switch way {
	case 0:
		data = data[:synced]
	case 1:
		data = data[:synced+(len(data)-synced)/2]
	case 2:
		clear(data[synced:])
	}
	return &node{data: data, synced: len(data)}
}
