package snapshot

import (
	"errors"
	"fmt"
	"io"
)

// dataFinder tells the holes of a source from its data, asking it once a stretch.
type dataFinder struct {
	src        Source
	start, end int64 // the stretch of data that was last found
}

// isHole says whether n bytes at off, of a volume of size bytes, are in no stretch
// of data. Calls come in order of off.
func (d *dataFinder) isHole(off, n, size int64) (bool, error) {
	if off >= d.end {
		start, end, err := d.src.NextData(off)
		switch {
		case errors.Is(err, io.EOF):
			start, end = size, size
		case err != nil:
			return false, fmt.Errorf("find data at %d: %w", off, err)
		case start < off || end <= start:
			return false, fmt.Errorf("find data at %d: source returned %d to %d", off, start, end)
		}
		d.start, d.end = start, max(end, off+1)
	}
	return d.start >= off+n, nil
}
