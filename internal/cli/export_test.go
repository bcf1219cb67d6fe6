package cli

import "strings"

// EachCommand calls f with every command that does something: its path, its
// line of usage and its examples.
func EachCommand(f func(path, use, example string)) {
	root := newRoot(&App{Getenv: func(string) string { return "" }})
	each(root, func(path, example string) {
		cmd, _, err := root.Find(strings.Fields(path)[1:])
		if err == nil {
			f(path, cmd.Use, example)
		}
	})
}
