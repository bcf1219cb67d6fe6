package jsontemplate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

type function func(args []any) (any, error)

func functions() map[string]function {
	return map[string]function{
		"json": of1(toJSON), "upper": of1(func(v any) (any, error) { return strings.ToUpper(text(v)), nil }),
		"lower": of1(func(v any) (any, error) { return strings.ToLower(text(v)), nil }),
		"len":   of1(length), "not": of1(func(v any) (any, error) { return !truth(v), nil }),
		"join": join, "printf": printf, "index": index, "and": and, "or": or,
		"eq": equal, "ne": of2(func(a, b any) (any, error) { return !same(a, b), nil }),
		"lt": compared(func(c int) bool { return c < 0 }), "le": compared(func(c int) bool { return c <= 0 }),
		"gt": compared(func(c int) bool { return c > 0 }), "ge": compared(func(c int) bool { return c >= 0 }),
	}
}

func of1(f func(any) (any, error)) function {
	return func(args []any) (any, error) {
		if len(args) != 1 {
			return nil, fmt.Errorf("wants 1 argument, not %d", len(args))
		}
		return f(args[0])
	}
}

func of2(f func(a, b any) (any, error)) function {
	return func(args []any) (any, error) {
		if len(args) != 2 {
			return nil, fmt.Errorf("wants 2 arguments, not %d", len(args))
		}
		return f(args[0], args[1])
	}
}

// text is a value as it is printed: nothing for what isn't set.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any:
		words := make([]string, len(v))
		for k, x := range v {
			words[k] = text(x)
		}
		return strings.Join(words, " ")
	case map[string]any:
		s, err := toJSON(v)
		if err == nil {
			return s.(string)
		}
	}
	return fmt.Sprint(v)
}

func toJSON(v any) (any, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return strings.TrimSpace(b.String()), nil
}

// join is join LIST SEPARATOR, or LIST | join SEPARATOR.
func join(args []any) (any, error) {
	if len(args) != 2 {
		return nil, fmt.Errorf("wants a list and a separator, not %d arguments", len(args))
	}
	list, sep := args[0], args[1]
	if _, ok := list.(string); ok {
		list, sep = sep, list
	}
	items, ok := list.([]any)
	if !ok && list != nil {
		return nil, errors.New("wants a list and a separator")
	}
	words := make([]string, len(items))
	for k, x := range items {
		words[k] = text(x)
	}
	return strings.Join(words, text(sep)), nil
}

func printf(args []any) (any, error) {
	if len(args) == 0 {
		return nil, errors.New("wants a format")
	}
	return fmt.Sprintf(text(args[0]), args[1:]...), nil
}

func index(args []any) (any, error) {
	if len(args) == 0 {
		return nil, errors.New("wants a list and a number")
	}
	v := args[0]
	for _, at := range args[1:] {
		switch x := v.(type) {
		case []any:
			k, ok := at.(int64)
			if !ok || k < 0 || int(k) >= len(x) {
				return nil, fmt.Errorf("there is no item %s among %d", text(at), len(x))
			}
			v = x[k]
		case map[string]any:
			v = x[text(at)]
		default:
			return nil, errors.New("wants a list or an object")
		}
	}
	return v, nil
}

func length(v any) (any, error) {
	switch v := v.(type) {
	case nil:
		return int64(0), nil
	case string:
		return int64(len(v)), nil
	case []any:
		return int64(len(v)), nil
	case map[string]any:
		return int64(len(v)), nil
	}
	return nil, fmt.Errorf("%s has no length", text(v))
}

// and is the first argument that is false, else the last.
func and(args []any) (any, error) {
	for k, v := range args {
		if !truth(v) || k == len(args)-1 {
			return v, nil
		}
	}
	return nil, errors.New("wants arguments")
}

// or is the first argument that is true, else the last.
func or(args []any) (any, error) {
	for k, v := range args {
		if truth(v) || k == len(args)-1 {
			return v, nil
		}
	}
	return nil, errors.New("wants arguments")
}

// truth tells a value that is set from one that is empty.
func truth(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case int64:
		return v != 0
	case float64:
		return v != 0
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}

// equal tells whether the first argument is like any of the others.
func equal(args []any) (any, error) {
	if len(args) < 2 {
		return nil, errors.New("wants 2 arguments or more")
	}
	for _, v := range args[1:] {
		if same(args[0], v) {
			return true, nil
		}
	}
	return false, nil
}

func same(a, b any) bool {
	if x, ok := number(a); ok {
		if y, ok := number(b); ok {
			return x == y
		}
	}
	return text(a) == text(b)
}

func compared(fits func(int) bool) function {
	return of2(func(a, b any) (any, error) {
		x, okX := number(a)
		y, okY := number(b)
		if okX && okY {
			return fits(cmp.Compare(x, y)), nil
		}
		return fits(cmp.Compare(text(a), text(b))), nil
	})
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}
