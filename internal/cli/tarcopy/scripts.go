package tarcopy

import _ "embed"

// ReceiveScript is the far end of Pack: a POSIX shell script that reads the
// archive from its standard input. Its arguments: the destination as the user
// wrote it, and 1 where several sources need it to be a folder.
//
//go:embed receive.sh
var ReceiveScript string

// SendScript is the far end of Unpack: it writes an archive of one file or
// folder to its standard output. Its arguments: 1 if it may be a folder, the
// path, and the folder that the path lies below, "" for the root.
//
//go:embed send.sh
var SendScript string
