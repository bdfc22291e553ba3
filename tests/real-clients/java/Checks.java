import java.util.Objects;

/** Output format of all clients: one line {@code ok NAME} or {@code FAIL NAME: reason} per check, and exit code 0. */
final class Checks {
    interface Probe {
        void run() throws Exception;
    }

    static void check(String name, Probe probe) {
        try {
            probe.run();
            System.out.println("ok " + name);
        } catch (Exception | AssertionError error) {
            System.out.println("FAIL " + name + ": " + error.toString().replaceAll("\\s+", " "));
        }
    }

    static void equal(Object got, Object expected) {
        if (!Objects.equals(got, expected)) {
            throw new AssertionError("got " + got + ", expected " + expected);
        }
    }

    static void matches(String got, String pattern) {
        if (got == null || !got.matches(pattern)) {
            throw new AssertionError("got " + got + ", expected " + pattern);
        }
    }

    /** Fails if the probe succeeds, or if no message of its error and causes contains the text. */
    static void fails(Probe probe, String text) {
        try {
            probe.run();
        } catch (Exception error) {
            for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                if (String.valueOf(cause.getMessage()).contains(text)) {
                    return;
                }
            }
            throw new AssertionError("expected " + text + ", got " + error, error);
        }
        throw new AssertionError("succeeded, expected " + text);
    }

    static String env(String name) {
        return Objects.requireNonNull(System.getenv(name), name);
    }
}
