"""Test files in the style of unittest that may mean something else as plain asserts, each with its reason."""

REFUSED: list[tuple[str, str]] = [
    (
        "assertLogs",
        """
        def test_a(self):
            with self.assertLogs() as cm:
                f()
        """,
    ),
    (
        "assertNoLogs",
        """
        def test_a(self):
            with self.assertNoLogs():
                f()
        """,
    ),
    (
        "an assertion method that there is not",
        """
        def test_a(self):
            self.assertItemsEqual([1], f(1))
        """,
    ),
    (
        "an assertion method as a value",
        """
        def test_a(self):
            check = self.assertEqual
            check(f(1), 2)
        """,
    ),
    (
        "an assertion method as a value",
        """
        def test_a(self):
            f(lambda x: self.assertEqual(x, 2))
        """,
    ),
    (
        "an assertion method as a value",
        """
        def test_a(self):
            self.assertTrue(f(1)) if g() else self.assertFalse(f(1))
        """,
    ),
    (
        "starred arguments of an assertion",
        """
        def test_a(self):
            self.assertEqual(*f(1))
        """,
    ),
    (
        "starred arguments of an assertion",
        """
        def test_a(self):
            self.assertEqual(**f(1))
        """,
    ),
    (
        "arguments that an assertion does not take",
        """
        def test_a(self):
            self.assertEqual(f(1))
        """,
    ),
    (
        "arguments that an assertion does not take",
        """
        def test_a(self):
            self.assertTrue(f(1), 2, 3)
        """,
    ),
    (
        "arguments that an assertion does not take",
        """
        def test_a(self):
            self.assertEqual(f(1), third=3)
        """,
    ),
    (
        "keyword arguments of an assertion in another order",
        """
        def test_a(self):
            self.assertEqual(second=f(1), first=g(2))
        """,
    ),
    (
        "an assertion that cannot fail",
        """
        def test_a(self):
            self.assertTrue((f(1), 'told'))
        """,
    ),
    (
        "identity of a literal",
        """
        def test_a(self):
            self.assertIs(f(1), 1000)
        """,
    ),
    (
        "identity of a literal",
        """
        def test_a(self):
            self.assertIsNot(f(1), [])
        """,
    ),
    (
        "assertCountEqual on unknown elements",
        """
        def test_a(self):
            self.assertCountEqual(f(1), g(2))
        """,
    ),
    (
        "assertCountEqual on unknown elements",
        """
        def test_a(self):
            self.assertCountEqual(f(1), [{'a': 1}, {'b': 2}])
        """,
    ),
    (
        "assertCountEqual on unknown elements",
        """
        def test_a(self):
            self.assertCountEqual(f(1), [b'a', b'b'])
        """,
    ),
    (
        "assertCountEqual on unknown elements",
        """
        def test_a(self):
            expected = [1]
            expected.append({})
            self.assertCountEqual(f(1), expected)
        """,
    ),
    (
        "assertCountEqual on unknown elements",
        """
        def test_a(self):
            expected = [1]
            if g():
                expected = g()
            self.assertCountEqual(f(1), expected)
        """,
    ),
    (
        "assertSequenceEqual on unknown types",
        """
        def test_a(self):
            self.assertSequenceEqual(f(1), [1, 2])
        """,
    ),
    (
        "a type-checked assertion on another type",
        """
        def test_a(self):
            self.assertListEqual(f(1), (1, 2))
        """,
    ),
    (
        "assertAlmostEqual with unknown places",
        """
        def test_a(self):
            self.assertAlmostEqual(f(1), 2.0, places=g())
        """,
    ),
    (
        "assertAlmostEqual with unknown places",
        """
        def test_a(self):
            self.assertAlmostEqual(f(1), 2.0, places=-1)
        """,
    ),
    (
        "assertAlmostEqual with an unknown delta",
        """
        def test_a(self):
            self.assertAlmostEqual(f(1), 2.0, delta=g(1))
        """,
    ),
    (
        "assertNotAlmostEqual with an unknown delta",
        """
        def test_a(self):
            self.assertNotAlmostEqual(f(1), 2, delta=-1)
        """,
    ),
    (
        "assertRegex with an unknown pattern",
        """
        def test_a(self):
            self.assertRegex(f(1), g(2))
        """,
    ),
    (
        "assertRegex with an unknown pattern",
        """
        def test_a(self):
            self.assertRegex(f(1), '')
        """,
    ),
    (
        "assertRegex with an unknown pattern",
        """
        def test_b(self):
            pattern = ''
            self.assertRegex('', pattern)
        """,
    ),
    (
        "a message after an assignment expression",
        """
        def test_a(self):
            self.assertTrue(x := f(1), f'{x}')
        """,
    ),
    (
        "assertRaises in another place",
        """
        def test_a(self):
            self.assertRaises(ValueError)
        """,
    ),
    (
        "assertRaises in another place",
        """
        def test_a(self):
            with self.assertRaises(ValueError, f):
                pass
        """,
    ),
    (
        "assertRaises of a constant",
        """
        def test_a(self):
            self.assertRaises(ValueError, None)
        """,
    ),
    (
        "assertRaisesRegex of a call with computed arguments",
        """
        def test_a(self):
            self.assertRaisesRegex(ValueError, 'a', f, g(1))
        """,
    ),
    (
        "another use of the context of assertRaises",
        """
        def test_a(self):
            with self.assertRaises(ValueError) as cm:
                f()
            g(cm)
        """,
    ),
    (
        "another use of the context of assertRaises",
        """
        def test_a(self):
            with self.assertRaises(ValueError) as self.cm:
                f()
        """,
    ),
    (
        "another use of the context of assertRaises",
        """
        def test_a(self):
            with self.assertWarns(UserWarning) as cm:
                f()
            self.assertTrue(cm.warning)
        """,
    ),
    (
        "another use of the context of assertRaises",
        """
        def test_a(self):
            cm = self.assertRaises(ValueError)
            with cm:
                f()
            with cm:
                g()
        """,
    ),
    (
        "the exception of assertRaises in an f-string",
        """
        def test_a(self):
            with self.assertRaises(ValueError) as cm:
                f()
            self.assertIn('a', f'{cm.exception}')
        """,
    ),
    (
        "a failure that is caught",
        """
        def test_a(self):
            try:
                self.fail()
            except Exception:
                pass
        """,
    ),
    (
        "a failure that is caught",
        """
        def test_a(self):
            try:
                self.fail()
            except:
                pass
        """,
    ),
    (
        "a failure that is caught",
        """
        def test_a(self):
            with self.assertRaises(AssertionError):
                self.fail('told')
        """,
    ),
    (
        "a failure that is caught",
        """
        def test_a(self):
            with self.assertRaises(AssertionError):
                with self.assertRaises(ValueError):
                    f()
        """,
    ),
    (
        "a failure that is caught",
        """
        def test_a(self):
            with self.assertRaises(Exception), self.assertRaises(ValueError):
                f()
        """,
    ),
    (
        "a failure that is caught",
        """
        def test_a(self):
            with contextlib.suppress(AssertionError):
                self.assertRaises(ValueError, f)
        """,
    ),
    (
        "a failure that is caught",
        """
        def expect(self, x):
            if not x:
                self.fail()

        def test_a(self):
            try:
                self.expect(f(1))
            except AssertionError:
                pass
        """,
    ),
    (
        "a failure that is caught",
        """
        def test_a(self):
            def inner():
                self.fail()

            try:
                inner()
            except AssertionError:
                pass
        """,
    ),
    (
        "a failure that is caught",
        """
        def test_a(self):
            with self.assertRaises(ValueError):
                with self.assertWarns(UserWarning):
                    f()
        """,
    ),
    (
        "assertWarns in another one",
        """
        def test_a(self):
            with self.assertWarns(UserWarning), self.assertWarns(DeprecationWarning):
                f()
        """,
    ),
    (
        "assertWarns in another one",
        """
        def test_a(self):
            with warnings.catch_warnings():
                self.assertWarns(UserWarning, f)
        """,
    ),
    (
        "assertRaises in assertWarns",
        """
        def test_a(self):
            with self.assertWarns(UserWarning):
                with self.assertRaises(ValueError):
                    f()
        """,
    ),
    (
        "assertWarns in a helper",
        """
        def check(self):
            self.assertWarns(UserWarning, f)
        def test_a(self):
            self.check()
        """,
    ),
    (
        "skipTest beside a subTest",
        """
        def test_a(self):
            with self.subTest():
                self.skipTest('a')
        """,
    ),
    (
        "skipTest beside a subTest",
        """
        def test_a(self):
            with self.subTest():
                f()
            self.skipTest('a')
        """,
    ),
    (
        "a subTest whose failure is caught",
        """
        def test_a(self):
            try:
                with self.subTest():
                    f()
            except ValueError:
                pass
        """,
    ),
    (
        "a subTest whose failure is caught",
        """
        def test_a(self):
            with self.assertRaises(ValueError):
                with self.subTest():
                    f()
        """,
    ),
    (
        "subTest in a helper",
        """
        def check(self):
            with self.subTest():
                f()
        def test_a(self):
            self.check()
        """,
    ),
    (
        "a subTest with computed arguments",
        """
        def test_a(self):
            with self.subTest(x=f(1)):
                g()
        """,
    ),
    (
        "several statements on a line",
        """
        def test_a(self):
            self.assertListEqual(f(1), [1]); g()
        """,
    ),
    (
        "several statements on a line",
        """
        def test_a(self):
            if g(): self.assertRaises(ValueError, f)
        """,
    ),
    (
        "TestCase.id",
        """
        def test_a(self):
            self.assertTrue(self.id())
        """,
    ),
    (
        "TestCase.failureException",
        """
        def test_a(self):
            raise self.failureException('a')
        """,
    ),
    (
        "TestCase.addTypeEqualityFunc",
        """
        def setUp(self):
            self.addTypeEqualityFunc(A, f)
        def test_a(self):
            pass
        """,
    ),
    (
        "TestCase.enterContext",
        """
        def setUp(self):
            self.x = self.enterContext(f())
        def test_a(self):
            pass
        """,
    ),
    (
        "TestCase.addClassCleanup",
        """
        @classmethod
        def setUpClass(cls):
            cls.addClassCleanup(f)
        def test_a(self):
            pass
        """,
    ),
    (
        "self passed on",
        """
        def test_a(self):
            check(self, f(1))
        """,
    ),
    (
        "addCleanup",
        """
        def tearDown(self):
            f()
        def test_a(self):
            self.addCleanup(g)
        """,
    ),
    (
        "addCleanup",
        """
        def make(self):
            self.addCleanup(g)
        def test_a(self):
            self.make()
        """,
    ),
    (
        "addCleanup",
        """
        def setUp(self):
            self.addCleanup(g)
            if f():
                return
        def test_a(self):
            pass
        """,
    ),
    (
        "a TestCase method of its own",
        """
        def assertEqual(self, a, b):
            pass
        def test_a(self):
            self.assertEqual(1, 2)
        """,
    ),
    (
        "a TestCase method of its own",
        """
        def run(self, result=None):
            super().run(result)
        def test_a(self):
            pass
        """,
    ),
    (
        "a TestCase method of its own",
        """
        def runTest(self):
            self.assertTrue(f(1))
        """,
    ),
    (
        "a TestCase method of its own",
        """
        def __init__(self, *args):
            super().__init__(*args)
        def test_a(self):
            pass
        """,
    ),
    (
        "a TestCase method of its own",
        """
        def setup_method(self):
            pass
        def test_a(self):
            pass
        """,
    ),
    (
        "an unusual setUp",
        """
        @f
        def setUp(self):
            pass
        def test_a(self):
            pass
        """,
    ),
    (
        "an unusual setUp",
        """
        def setUpClass(cls):
            pass
        def test_a(self):
            pass
        """,
    ),
    (
        "an async test",
        """
        async def test_a(self):
            self.assertTrue(await f(1))
        """,
    ),
    (
        "a test that yields",
        """
        def test_a(self):
            yield f(1)
        """,
    ),
    (
        "a test that returns a value",
        """
        def test_a(self):
            return f(1)
        """,
    ),
    (
        "a test with parameters",
        """
        def test_a(self, x):
            f(x)
        """,
    ),
    (
        "a test with parameters",
        """
        def test_a(self, x=1):
            f(x)
        """,
    ),
    (
        "a method without self",
        """
        def test_a():
            f(1)
        """,
    ),
    (
        "two tests of one name",
        """
        def test_a(self):
            f(1)
        def test_a(self):
            f(2)
        """,
    ),
    (
        "a class in a test class",
        """
        class TestInner:
            def test_a(self):
                pass
        def test_b(self):
            pass
        """,
    ),
    (
        "a decorator of its own",
        """
        @given(1)
        def test_a(self):
            pass
        """,
    ),
    (
        "an unusual skip",
        """
        @unittest.skipIf(f(1))
        def test_a(self):
            pass
        """,
    ),
    (
        "expectedFailure beside a fixture",
        """
        def setUp(self):
            f()
        @unittest.expectedFailure
        def test_a(self):
            pass
        """,
    ),
    (
        "tests that share state out of order",
        """
        @classmethod
        def setUpClass(cls):
            cls.x = []
        def test_b(self):
            self.x.append(1)
        def test_a(self):
            f(self.x)
        """,
    ),
    (
        "a name that is taken",
        """
        def test_a(self):
            pytest = f
            self.assertRaises(ValueError, pytest, 1)
        """,
    ),
    (
        "another use of the context of assertRaises",
        """
        def test_a(self):
            first = self.assertRaises(ValueError)
            with self.assertRaises(TypeError) as second:
                f(1)
            with first as again:
                f(2)
            self.assertTrue(second.exception)
        """,
    ),
    (
        "no free name",
        """
        def test_a(self):
            excinfo = 1
            raised = self.assertRaises(ValueError)
            with raised:
                f(excinfo)
            self.assertTrue(raised.exception)
        """,
    ),
    (
        "assertAlmostEqual with an unknown delta",
        """
        def test_a(self):
            self.assertAlmostEqual(f(1), g(1), delta=not_there)
        """,
    ),
    (
        "a subTest with computed arguments",
        """
        def test_a(self):
            with self.subTest(x=not_there):
                f(1)
        """,
    ),
    (
        "a subTest with computed arguments",
        """
        def test_a(self):
            with self.subTest(x=x):
                x = f(1)
        """,
    ),
    (
        "TestCase.maxDiff",
        """
        def test_a(self):
            self.maxDiff = f(1)
        """,
    ),
]
"""The reason, and the body of a test class."""

FRAMES: list[tuple[str, str]] = [
    (
        "no TestCase class",
        """
        import unittest


        def test_a():
            assert True
        """,
    ),
    (
        "does not parse",
        """
        import unittest
        class TestA(unittest.TestCase)
        """,
    ),
    (
        "load_tests",
        """
        import unittest
        class TestA(unittest.TestCase):
            def test_a(self):
                pass
        def load_tests(loader, tests, pattern):
            return tests
        """,
    ),
    (
        "another use of unittest",
        """
        import unittest
        class TestA(unittest.TestCase):
            def test_a(self):
                pass
        suite = unittest.TestSuite()
        """,
    ),
    (
        "another use of unittest",
        """
        import unittest
        class TestA(unittest.TestCase):
            def test_a(self):
                pass
        unittest.main()
        """,
    ),
    (
        "another use of unittest",
        """
        import unittest
        class TestA(unittest.TestCase):
            def test_a(self):
                raise unittest.SkipTest('a')
        """,
    ),
    (
        "a TestCase base class of its own",
        """
        from django.test import TestCase
        class TestA(TestCase):
            def test_a(self):
                pass
        """,
    ),
    (
        "a TestCase base class of its own",
        """
        import unittest
        from base import Checks
        class TestA(Checks, unittest.TestCase):
            def test_a(self):
                pass
        """,
    ),
    (
        "IsolatedAsyncioTestCase",
        """
        import unittest
        class TestA(unittest.IsolatedAsyncioTestCase):
            async def test_a(self):
                pass
        """,
    ),
    (
        "a TestCase class in an unusual place",
        """
        import unittest
        if True:
            class TestA(unittest.TestCase):
                def test_a(self):
                    pass
        """,
    ),
    (
        "a mixin that is collected by itself",
        """
        import unittest
        class TestMixin:
            def test_m(self):
                self.assertTrue(f(1))
        class TestA(TestMixin, unittest.TestCase):
            pass
        """,
    ),
    (
        "super() beside a mixin",
        """
        import unittest
        class Mixin:
            def setUp(self):
                super().setUp()
        class TestA(Mixin, unittest.TestCase):
            def test_a(self):
                pass
        """,
    ),
    (
        "two classes of one name",
        """
        import unittest
        class AddTest(unittest.TestCase):
            x = 1
            def test_a(self):
                pass
        class AddTests(unittest.TestCase):
            x = 2
            def test_a(self):
                pass
        """,
    ),
    (
        "names that depend on the class's own",
        """
        import unittest
        class AddTest(unittest.TestCase):
            def test_a(self):
                self.__x = 1
        """,
    ),
    (
        "a class's name in an f-string",
        """
        import unittest
        class AddTest(unittest.TestCase):
            x = 1
            def test_a(self):
                self.assertEqual(f"{AddTest.x}", "1")
        """,
    ),
    (
        "a name that is taken",
        """
        import unittest
        from solution import Counter, f
        class TestA(unittest.TestCase):
            def test_a(self):
                self.assertCountEqual(f(1), [1, None])
        """,
    ),
    (
        "a name that is taken",
        """
        import unittest
        from solution import f, sorted
        class TestA(unittest.TestCase):
            def test_a(self):
                self.assertCountEqual(f(1), [1, 2])
        """,
    ),
    (
        "tests that share state out of order",
        """
        import unittest
        count = 0
        class TestA(unittest.TestCase):
            def test_b(self):
                global count
                count += 1
            def test_a(self):
                self.assertEqual(count, 0)
        """,
    ),
    (
        "an unusual main block",
        """
        import unittest
        class TestA(unittest.TestCase):
            def test_a(self):
                pass
        if __name__ != '__main__':
            f()
        """,
    ),
    (
        "a name that is taken",
        """
        import unittest
        from solution import f, isinstance
        class TestA(unittest.TestCase):
            def test_a(self):
                self.assertIsInstance(f(1), int)
        """,
    ),
    (
        "a name that is taken",
        """
        import unittest
        from solution import f
        class TestA(unittest.TestCase):
            def test_a(self):
                self.assertRegex(f(1), re.compile("not imported"))
        """,
    ),
    (
        "does not parse",
        """
        import unittest
        class TestA(unittest.TestCase):
            def test_a(self):
                pass
        if __name__ == "__main__":
            return
        """,
    ),
]
"""The reason, and the whole file."""
