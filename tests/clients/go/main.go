// Go's x/crypto/ssh as a client of the tests: see tests/program/clients.rs for what it is asked to do.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

func main() {
	status, err := run(os.Args[1], os.Args[2], os.Args[3:])
	if err != nil {
		if strings.Contains(err.Error(), "unable to authenticate") {
			err = fmt.Errorf("authentication failed: %w", err)
		}
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func run(method, action string, arguments []string) (int, error) {
	client, err := connect(method)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	switch action {
	case "exec":
		return execute(client, arguments[0], os.Stdin, false)
	case "terminal":
		return execute(client, arguments[0], os.Stdin, true)
	case "connect":
		return 0, through(client, net.JoinHostPort(arguments[0], arguments[1]))
	case "listen":
		return listen(client)
	case "signal":
		return signal(client, ssh.Signal(arguments[0]), arguments[1])
	case "last-session":
		return 0, lastSession(client)
	case "files":
		return 0, files(client, arguments[0], arguments[1], arguments[2])
	}
	return 0, fmt.Errorf("no action %s", action)
}

func connect(method string) (*ssh.Client, error) {
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(os.Getenv("HOST_KEY")))
	if err != nil {
		return nil, err
	}
	password := os.Getenv("PASSWORD")
	var auth ssh.AuthMethod
	switch method {
	case "key":
		text, err := os.ReadFile(os.Getenv("KEY"))
		if err != nil {
			return nil, err
		}
		key, err := ssh.ParsePrivateKey(text)
		if err != nil {
			return nil, err
		}
		auth = ssh.PublicKeys(key)
	case "password":
		auth = ssh.Password(password)
	default:
		auth = ssh.KeyboardInteractive(func(_, _ string, prompts []string, _ []bool) ([]string, error) {
			answers := make([]string, len(prompts))
			for i := range prompts {
				answers[i] = password
			}
			return answers, nil
		})
	}
	return ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", os.Getenv("PORT")), &ssh.ClientConfig{
		User:            os.Getenv("LOGIN"),
		Auth:            []ssh.AuthMethod{auth},
		HostKeyCallback: ssh.FixedHostKey(hostKey),
	})
}

func execute(client *ssh.Client, command string, input io.Reader, terminal bool) (int, error) {
	session, err := client.NewSession()
	if err != nil {
		return 0, err
	}
	defer session.Close()
	if terminal {
		if err := session.RequestPty("vt220", 40, 100, ssh.TerminalModes{ssh.ECHO: 0}); err != nil {
			return 0, err
		}
	}
	session.Stdout, session.Stderr = os.Stdout, os.Stderr
	// A pipe of our own: with Session.Stdin, Run would wait for the input's end.
	stdin, err := session.StdinPipe()
	if err != nil {
		return 0, err
	}
	go func() {
		_, _ = io.Copy(stdin, input)
		_ = stdin.Close()
	}()
	return status(session.Run(command))
}

// The exit status that an end by this error stands for.
func status(err error) (int, error) {
	var ended *ssh.ExitError
	if errors.As(err, &ended) {
		if ended.Signal() != "" {
			fmt.Fprintln(os.Stderr, "signal", ended.Signal())
			return 255, nil
		}
		return ended.ExitStatus(), nil
	}
	return 0, err
}

func through(client *ssh.Client, address string) error {
	connection, err := client.Dial("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(connection, os.Stdin)
		_ = connection.(interface{ CloseWrite() error }).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, connection)
	return err
}

func listen(client *ssh.Client) (int, error) {
	listener, err := client.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		question, _ := io.ReadAll(connection)
		fmt.Fprintf(connection, "you said %s", question)
		_ = connection.Close()
	}()
	port := listener.Addr().(*net.TCPAddr).Port
	return execute(client, fmt.Sprintf("echo hello | nc 127.0.0.1 %d", port), strings.NewReader(""), false)
}

// Sends a signal to a command once that has said something.
func signal(client *ssh.Client, name ssh.Signal, command string) (int, error) {
	session, err := client.NewSession()
	if err != nil {
		return 0, err
	}
	defer session.Close()
	output, err := session.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := session.Start(command); err != nil {
		return 0, err
	}
	if _, err := io.CopyN(os.Stdout, output, 6); err != nil {
		return 0, err
	}
	if err := session.Signal(name); err != nil {
		return 0, err
	}
	if _, err := io.Copy(os.Stdout, output); err != nil {
		return 0, err
	}
	return status(session.Wait())
}

// Says that there will be no more sessions, and opens another.
func lastSession(client *ssh.Client) error {
	granted, _, err := client.SendRequest("no-more-sessions@openssh.com", true, nil)
	if err != nil || !granted {
		return fmt.Errorf("not granted: %v", err)
	}
	if _, err := client.NewSession(); err == nil {
		return errors.New("one more session")
	}
	fmt.Println(client.Wait())
	return nil
}

func files(client *ssh.Client, near, far, back string) error {
	files, err := sftp.NewClient(client)
	if err != nil {
		return err
	}
	defer files.Close()
	content, err := os.ReadFile(near)
	if err != nil {
		return err
	}
	file, err := files.Create(far)
	if err != nil {
		return err
	}
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	directory := far + ".d"
	for _, step := range []func() error{
		func() error { return files.Mkdir(directory) },
		func() error { return files.PosixRename(far, directory+"/moved") },
		func() error { return files.Symlink("moved", directory+"/link") },
		func() error { return files.Chmod(directory+"/moved", 0o640) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	entries, err := files.ReadDir(directory)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	sort.Strings(names)
	if err != nil || strings.Join(names, " ") != "link moved" {
		return fmt.Errorf("a wrong list: %v, %v", names, err)
	}
	if target, err := files.ReadLink(directory + "/link"); err != nil || target != "moved" {
		return fmt.Errorf("a wrong link: %v, %v", target, err)
	}
	if file, err = files.OpenFile(directory+"/link", os.O_RDWR); err != nil {
		return err
	}
	if _, err := file.WriteAt([]byte("berth"), 3); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	copied, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	if err := files.Remove(directory + "/nothing"); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("what is not there was removed: %v", err)
	}
	return os.WriteFile(back, copied, 0o600)
}
