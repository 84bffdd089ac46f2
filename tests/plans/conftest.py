from tests.support.fresh import give as give
